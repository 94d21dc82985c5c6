"""Étude d'une distribution : valeurs refaites à la main, dessin relu."""

import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpt_architecture.errors import ConfigurationError, MissingDependencyError, OutputError
from gpt_architecture.evaluation.distribution import (
    next_token_logits,
    plot_distribution,
    study_distribution,
)

# P = 0,5 0,25 0,125 0,125 ; entropie 1,75 bit
PROBABILITIES = torch.tensor([0.125, 0.5, 0.125, 0.25])


@pytest.fixture
def study():
    return study_distribution(PROBABILITIES.log(), [0.0, 1.0, 2.0], k=2, p=0.8, n_tokens=3)


class TestStudy:
    def test_follows_the_most_likely_tokens(self, study):
        assert study.tokens[:2] == (1, 3)
        assert study.tokens[2] in (0, 2)
        assert all(len(effect.probabilities) == 3 for effect in study.temperatures + study.filters)

    def test_raw_distribution(self, study):
        raw = study.filters[0]
        assert raw.probabilities == pytest.approx((0.5, 0.25, 0.125))
        assert raw.entropy == pytest.approx(1.75)
        assert raw.kept == 4

    def test_top_k(self, study):
        effect = study.filters[1]
        assert effect.probabilities == pytest.approx((2 / 3, 1 / 3, 0))
        assert effect.entropy == pytest.approx(math.log2(3) - 2 / 3)
        assert effect.kept == 2

    def test_top_p(self, study):
        """0,5 + 0,25 < 0,8 : il faut un troisième token, le plus petit des deux égaux."""
        effect = study.filters[2]
        assert effect.kept == 3
        assert effect.probabilities[:2] == pytest.approx((0.5 / 0.875, 0.25 / 0.875))

    def test_temperature_zero(self, study):
        frozen = study.temperatures[0]
        assert frozen.probabilities == (1.0, 0.0, 0.0)
        assert (frozen.entropy, frozen.kept) == (0.0, 1)

    def test_temperature_one_is_the_raw_distribution(self, study):
        one, raw = study.temperatures[1], study.filters[0]
        assert one.probabilities == pytest.approx(raw.probabilities)
        assert one.entropy == pytest.approx(raw.entropy)

    def test_temperature_two_by_hand(self, study):
        """Racines carrées des probabilités, normalisées."""
        total = sum(math.sqrt(p) for p in (0.5, 0.25, 0.125, 0.125))
        assert study.temperatures[2].probabilities[:2] == pytest.approx(
            (math.sqrt(0.5) / total, 0.5 / total)
        )

    def test_entropy_grows_with_temperature(self):
        logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
        study = study_distribution(logits, [0, 0.5, 1.0, 2.0, 1e6], k=1, p=0.5)
        entropies = [effect.entropy for effect in study.temperatures]
        assert entropies == sorted(entropies)
        assert entropies[0] == 0
        assert entropies[-1] == pytest.approx(math.log2(50))

    @pytest.mark.parametrize("size", [1, 7, 300])
    def test_uniform(self, size):
        study = study_distribution(torch.zeros(size), [1.0], k=3, p=0.5)
        raw, by_k, by_p = study.filters
        assert raw.entropy == pytest.approx(math.log2(size), abs=1e-5)
        assert (raw.kept, by_k.kept) == (size, min(3, size))
        assert by_p.kept == math.ceil(size / 2)
        assert by_p.entropy == pytest.approx(math.log2(by_p.kept), abs=1e-5)
        assert len(study.tokens) == min(10, size)

    def test_entropy_counts_the_tokens_that_are_not_followed(self):
        study = study_distribution(torch.zeros(300), [1.0], k=3, p=0.5, n_tokens=2)
        assert study.temperatures[0].entropy == pytest.approx(math.log2(300), rel=1e-5)

    def test_degenerate_filters_are_alike(self):
        logits = torch.randn(20, generator=torch.Generator().manual_seed(1))
        study = study_distribution(logits, [0], k=1, p=0)
        expected = (1.0,) + (0.0,) * 9
        for effect in (study.temperatures[0], *study.filters[1:]):
            assert effect.probabilities == expected
            assert (effect.entropy, effect.kept) == (0.0, 1)

    def test_labels_in_french(self):
        study = study_distribution(torch.zeros(4), [0.3, 1, 2.0], k=50, p=0.9)
        assert [effect.label for effect in study.temperatures] == ["T = 0,3", "T = 1", "T = 2"]
        assert [effect.label for effect in study.filters] == [
            "brute",
            "top-k, k = 50",
            "top-p, p = 0,9",
        ]

    def test_input_is_left_unchanged(self):
        logits = torch.randn(20, generator=torch.Generator().manual_seed(1))
        original = logits.clone()
        study_distribution(logits, [0.5], k=2, p=0.5)
        assert torch.equal(logits, original)

    @pytest.mark.parametrize(
        ("temperatures", "k", "p"), [([-1.0], 2, 0.5), ([1.0], 0, 0.5), ([1.0], 2, 1.5)]
    )
    def test_out_of_bounds(self, temperatures, k, p):
        with pytest.raises(ConfigurationError):
            study_distribution(torch.zeros(4), temperatures, k=k, p=p)


class TestNextTokenLogits:
    def test_are_those_of_the_last_position(self, tiny_model):
        prompt = torch.tensor([[3, 1, 4, 1, 5]])
        with torch.no_grad():
            expected = tiny_model(prompt)[0, -1]
        found = next_token_logits(tiny_model, prompt)
        assert found.shape == (61,)
        assert torch.equal(found, expected)

    def test_long_prompt_is_cropped(self, tiny_model):
        prompt = torch.arange(40).unsqueeze(0)
        assert torch.equal(
            next_token_logits(tiny_model, prompt), next_token_logits(tiny_model, prompt[:, -16:])
        )

    def test_without_dropout_and_mode_restored(self, tiny_model):
        prompt = torch.tensor([[3, 1, 4]])
        expected = next_token_logits(tiny_model, prompt)
        tiny_model.drop_emb.p = 0.5
        tiny_model.train()
        assert torch.equal(next_token_logits(tiny_model, prompt), expected)
        assert tiny_model.training

    def test_can_be_studied(self, tiny_model):
        """Des logits calculés sans graphe conviennent à l'étude."""
        logits = next_token_logits(tiny_model, torch.tensor([[3, 1, 4]]))
        study = study_distribution(logits, [0.5, 1.0], k=5, p=0.9)
        assert study.filters[1].kept == 5
        assert study.tokens[0] == logits.argmax()


class TestPlot:
    LABELS = ("« passeur »", "« bac »", "« lampe »")

    @pytest.fixture(autouse=True)
    def matplotlib(self):
        return pytest.importorskip("matplotlib.figure", reason="tracé : matplotlib absent")

    @pytest.fixture
    def page(self):
        """Le texte de l'unique page d'un PDF."""
        pypdf = pytest.importorskip("pypdf", reason="relecture des PDF : pypdf absent")

        def read(path):
            (only,) = pypdf.PdfReader(path).pages
            return only.extract_text()

        return read

    @pytest.mark.slow
    def test_is_a_readable_one_page_pdf(self, study, page):
        path = plot_distribution(study, self.LABELS, "Après « le »", "dessins/d.pdf")
        assert path == Path("dessins/d.pdf")
        text = page(path)
        for words in ("Après", "température", "filtres", "Probabilité", "top-k, k = 2", "bits"):
            assert words in text
        assert "2 tokens" in text  # top-k
        assert "1 token," in text  # température 0

    @pytest.mark.slow
    def test_any_token_can_be_a_label(self, page):
        """Un token « $ » n'est pas une formule, ni sous une barre, ni dans le titre."""
        labels = ["$x^$", "$", "$$", "\\frac{", "x_1", "^", "%", "{", "", " ", "\n", "&<", "\ufffd"]
        study = study_distribution(torch.zeros(13), [1.0], k=2, p=0.5, n_tokens=13)
        text = page(plot_distribution(study, labels, "Après « $x^$ »", "d.pdf"))
        assert text.count("$x^$") == 3  # titre et deux diagrammes

    @pytest.mark.slow
    def test_more_effects_than_colours(self, page):
        study = study_distribution(torch.zeros(12), [0.1 * n for n in range(1, 8)], k=2, p=0.5)
        path = plot_distribution(study, [str(token) for token in study.tokens], "t", "d.pdf")
        assert "T = 0,7" in page(path)

    def test_suffix_chooses_the_format(self, study):
        path = plot_distribution(study, self.LABELS, "t", "d.png")
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_a_slow_machine_raises_no_warning(self, study, monkeypatch):
        """Placer la légende lui prend plus d'une seconde ; les avertissements sont des erreurs."""
        legend = pytest.importorskip("matplotlib.legend", reason="tracé : matplotlib absent")
        clock = SimpleNamespace(perf_counter=itertools.count(step=2).__next__)
        monkeypatch.setattr(legend, "time", clock)
        assert plot_distribution(study, self.LABELS, "t", "d.pdf").is_file()
        assert clock.perf_counter() > 0  # l'horloge a bien servi

    def test_folder_that_cannot_be_created(self, study):
        Path("fichier").write_text("pas un dossier", encoding="utf-8")
        with pytest.raises(OutputError, match=r"fichier/d\.pdf"):
            plot_distribution(study, self.LABELS, "t", "fichier/d.pdf")

    def test_unknown_format_says_which_are_known(self, study):
        with pytest.raises(ConfigurationError, match=r"d\.xyz .*; changez cette extension"):
            plot_distribution(study, self.LABELS, "t", "d.xyz")
        assert list(Path().iterdir()) == []


def test_missing_matplotlib_says_what_to_install(study, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        plot_distribution(study, ("a", "b", "c"), "t", "d.pdf")
    assert "pip install matplotlib" in str(caught.value)
    assert not Path("d.pdf").exists()
