"""Ce que la face Python montre : une ligne au terminal, un fragment de HTML dans un carnet."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from page_helpers import HOSTILE, read_cell

from gpt_architecture import GPT, GPTConfig, Table, follow_learning
from gpt_architecture.api import compare, evaluate
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.inside.heads import Removal
from gpt_architecture.reports import notebook

PROMPT = "Un soir <b>é</b> ❤"
STYLE = Path(notebook.__file__).with_name("templates") / "notebook" / "notebook.css"
BACKGROUNDS = {
    "#ffffff": "#212121",
    "#111111": "#e0e0e0",
    "#1e1e1e": "#d4d4d4",
    "#383838": "#e3e3e3",
}
"""Fonds des carnets (Jupyter clair et sombre, VS Code, Colab) → couleur de leur texte."""


@pytest.fixture(scope="module")
def gpt():
    """Un modèle minuscule, aux poids tirés au hasard, sous le vocabulaire de GPT-2."""
    torch.manual_seed(0)
    shape = {"context_length": 32, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0}
    losses = {"train_losses": [9.0, 8.0], "val_losses": [9.5, 8.5], "tokens_seen": [10, 20]}
    return GPT(
        model=GPTModel(GPTConfig(**shape)).eval(),
        tokenizer=get_tokenizer("gpt2"),
        device=torch.device("cpu"),
        metadata={"prompt": PROMPT, "data": {"name": HOSTILE}, **losses},
        name=HOSTILE,
    )


class Talkative:
    """Un tokenizer dont chaque token serait du HTML."""

    def __init__(self, inner):
        self.inner, self.name, self.vocab_size, self.eos_id = inner, HOSTILE, inner.vocab_size, None

    def encode(self, text, *, allowed_special=frozenset()):
        return self.inner.encode(text)

    def decode(self, ids):
        return HOSTILE * len(list(ids))

    def to_dict(self):
        return {"name": "gpt2"}


SHOWN = {
    "modèle": lambda gpt: gpt,
    "texte généré": lambda gpt: gpt.complete(PROMPT, max_tokens=6, temperature=1.0, seed=1),
    "tokens": lambda gpt: gpt.tokens(PROMPT),
    "distribution": lambda gpt: gpt.distribution(PROMPT, n_tokens=4),
    "attention": lambda gpt: gpt.attention("Un soir, il revint"),
    "lentille": lambda gpt: gpt.lens("Un soir, il revint", top=2),
    "ablation": lambda gpt: gpt.ablate("Un soir", mode="zero"),
    "neurone": lambda gpt: gpt.neuron("Un soir, il revint, un soir encore", layer=2, top=3),
    "voisins": lambda gpt: gpt.neighbours(" la", top=4),
    "carte": lambda gpt: gpt.embedding_map("Un soir, il revint"),
    "trace": lambda gpt: gpt.trace(PROMPT, max_tokens=4, top_k=3, min_p=0.0001, seed=1),
    "comparaison": lambda gpt: compare(gpt, PROMPT, variants=["greedy", "top_k k=3"], max_tokens=4),
    "table": lambda gpt: Table({HOSTILE: [HOSTILE, None], "y": [0.5, 1]}, title=HOSTILE),
}


def attributes(reader, name):
    """Les valeurs d'un attribut."""
    return [value for found, value in reader.attributes if found == name]


@pytest.mark.parametrize("name", SHOWN)
class TestEverything:
    def test_a_cell_stands_alone(self, gpt, name):
        read_cell(SHOWN[name](gpt)._repr_html_())

    def test_one_sober_line(self, gpt, name):
        line = repr(SHOWN[name](gpt))
        assert "\n" not in line
        assert len(line) < 400
        assert re.match(r"[A-Z]\w+\(.+\)$", line)

    def test_hostile_tokens_stay_text(self, gpt, name):
        """Un token `<script>` est montré, jamais exécuté."""
        hostile = replace(gpt, tokenizer=Talkative(gpt.tokenizer))
        reader = read_cell(SHOWN[name](hostile)._repr_html_())
        shown = reader.text + "".join(value or "" for _, value in reader.attributes)
        assert "<img" in shown


def test_the_model_card_has_its_curves(gpt):
    reader = read_cell(gpt._repr_html_())
    assert "svg" in reader.tags
    assert any("8,50 nats" in each for each in attributes(reader, "aria-label"))
    assert "contexte d'entraînement" in reader.text
    bare = GPT(model=gpt.model, tokenizer=gpt.tokenizer, device=gpt.device)
    assert "svg" not in read_cell(bare._repr_html_()).tags


class TestCompletion:
    def test_it_is_the_text_of_generate(self, gpt):
        settings = {"max_tokens": 8, "temperature": 1.3, "seed": 4}
        found = gpt.complete(PROMPT, **settings)
        assert str(found) == gpt.generate(PROMPT, **settings) == PROMPT + found.text
        assert "".join(piece.text for piece in found.pieces) == found.text
        assert (found.finish, found.seed, len(found.tokens)) == ("length", 4, 8)
        stopped = gpt.complete(PROMPT, **settings, stop=[found.text[3:5]])
        assert stopped.text == found.text[:3]
        assert "".join(piece.text for piece in stopped.pieces) == stopped.text

    def test_probabilities_are_those_of_the_text(self, gpt):
        found = gpt.complete("Un soir", max_tokens=5, top=3)
        ids = [*gpt.generator.encode("Un soir"), *found.tokens]
        scores = gpt.generator.score(ids)[-5:]
        for piece, score in zip(found.pieces, scores, strict=True):
            assert piece.probability == pytest.approx(
                torch.tensor(score.logprob).exp().item(), rel=1e-4
            )
            best = [each.probability for each in piece.candidates]
            assert len(best) == 3
            assert best == sorted(best, reverse=True)
            assert piece.candidates[0].id == piece.id  # glouton

    def test_a_beam_has_probabilities_too(self, gpt):
        found = gpt.complete("Un soir", strategy="beam", beams=2, max_tokens=3, top=1)
        assert all(0 < piece.probability <= 1 for piece in found.pieces)

    def test_refusals(self, gpt):
        with pytest.raises(ConfigurationError, match="essayez `temperature`"):
            gpt.complete(PROMPT, temperatur=1)
        with pytest.raises(ConfigurationError, match="generate_batch"):
            gpt.complete(PROMPT, n=2)
        with pytest.raises(ConfigurationError, match="top"):
            gpt.complete(PROMPT, top=1000)

    def test_colours_follow_surprise(self, gpt):
        """Un token certain n'a pas de fond ; un token inattendu a le plus fort."""
        reader = read_cell(
            gpt.complete(PROMPT, max_tokens=2, temperature=2.0, seed=1)._repr_html_()
        )
        classes = [value for name, value in reader.attributes if name == "class"]
        assert classes.count("tok h5") == 2  # une chance sur 50 257, ou presque


def test_tokens_are_those_of_the_tokenizer(gpt):
    found = gpt.tokens(PROMPT)
    assert list(found.ids) == gpt.tokenizer.encode(PROMPT)
    assert "".join(each.text for each in found.segments) == PROMPT
    assert dict(found)["Un"] == found.ids[0]
    reader = read_cell(found._repr_html_())
    assert "tok c1 many" not in reader.text
    assert any(
        value and value.endswith("many") for name, value in reader.attributes if name == "class"
    )
    assert len(gpt.tokens("")) == 0
    read_cell(gpt.tokens("")._repr_html_())


def test_attention_is_that_of_the_model(gpt):
    found = gpt.attention("Un soir, il revint")
    assert torch.equal(found.weights, attention_of(gpt.model, gpt.encode("Un soir, il revint")))
    assert torch.equal(found.head(2, 1), found.weights[1, 0])
    for layer, head in ((0, 1), (3, 1), (1, 3)):
        with pytest.raises(ConfigurationError):
            found.head(layer, head)
    with pytest.raises(ConfigurationError, match="phrase"):
        gpt.attention("mot " * 400)
    labels = [
        value for name, value in read_cell(found._repr_html_()).attributes if name == "aria-label"
    ]
    assert sum(each.startswith("couche") for each in labels) == 4  # deux couches, deux têtes


def test_quantized_when_loaded_it_shows_neither_attention_nor_vectors(gpt):
    """Ce qui calcule n'est plus le réseau d'origine : ce seraient ceux d'un autre."""
    runner = SimpleNamespace(cfg=gpt.config, device=gpt.device)
    quantized = replace(gpt, quant="int8", runner=runner)
    with pytest.raises(ConfigurationError, match="non quantifié"):
        quantized.attention("Un soir, il revint")
    with pytest.raises(ConfigurationError, match="non quantifié"):
        quantized.embed("Un soir, il revint")


def test_heads_are_named_in_a_sentence(gpt):
    """Un modèle au hasard ne recopie pas, et la phrase le dit ; rien n'y est un token."""
    found = gpt.heads(length=6, rows=2)
    reader = read_cell(found._repr_html_())
    assert reader.tags.count("table") == 4
    assert "Aucune tête ne recopie à elle seule" in reader.text
    assert re.fullmatch(r"Heads\(recopie : couche \d, tête \d, .*\)", repr(found))
    ((layer, head, note),) = found.best("induction", 1)
    assert note == float(found.induction[layer, head])
    sharp = replace(
        found,
        induction=torch.tensor([[0.1, 0.3]]),
        chance=0.05,
        first_loss=5.0,
        repeat_loss=4.0,
        removals=(Removal(layer=0, head=1, loss=4.6),),
    )
    assert "Celle qui recopie est la tête 2 de la couche 1" in sharp.verdict
    assert sharp.verdict.endswith("et à 4,60 sans cette tête.")
    near = replace(sharp, induction=torch.tensor([[0.0291, 0.0285]]), chance=0.0285)
    assert re.search(r"avec 2,91\s% de son attention \(au hasard : 2,85\s%\)", near.verdict)


def test_what_is_inside_is_numbered_from_one(gpt):
    lens, ablation = gpt.lens("Un soir"), gpt.ablate("Un soir")
    assert lens.candidates(2, 1)[0].id == int(lens.top_ids[2, 0, 0])
    assert ablation.without(2, head=1).part.layer == 1
    assert ablation.without(1).part.kind == "block"
    assert gpt.neuron("Un soir", layer=1, neuron=3).neuron == 2
    first = gpt.neurons("Un soir, il revint", layer=1).rows[0]
    assert gpt.neuron("Un soir, il revint", layer=1).neuron == first["neuron"] - 1
    assert len(gpt.embedding_map(" la").tokens) == 13  # lui et ses voisins
    for call, words in (
        (lambda: lens.candidates(3, 1), "layer vaut 3"),
        (lambda: lens.candidates(0, 9), "position vaut 9"),
        (lambda: ablation.without(0), "layer vaut 0"),
        (lambda: ablation.without(1, head=3), "head vaut 3"),
        (lambda: gpt.neuron("Un", layer=3), "layer vaut 3"),
        (lambda: gpt.neuron("Un", layer=1, neuron=0), "neuron vaut 0"),
        (lambda: gpt.neighbours("Un soir"), "« Un soir » fait 3 tokens"),
        (lambda: gpt.ablate("Un", follow=""), "fait 0 token"),
        (lambda: gpt.ablate("Un", follow=50_257), "follow vaut 50257"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            call()


def test_a_learning_story_has_a_row_per_checkpoint(tmp_path):
    from studio_helpers import write_checkpoints

    write_checkpoints(tmp_path)
    found = follow_learning(tmp_path, "Le passeur", follow="e", max_tokens=4)
    reader = read_cell(found._repr_html_())
    assert reader.tags.count("tr") == 4
    assert "« e »" in reader.text
    assert len(found.probabilities) == 3
    assert repr(found).startswith("LearningStory(3 points de reprise, étapes 2 à 6")
    with pytest.raises(ConfigurationError, match="`run` vaut 3"):
        follow_learning(3, "Le passeur")


def test_distribution_sums_and_labels(gpt):
    found = gpt.distribution("Un soir", temperatures=(0.5, 1.0), k=2)
    assert found.filters[0].probabilities == pytest.approx(found.temperatures[1].probabilities)
    assert sum(found.filters[1].probabilities) == pytest.approx(1)
    assert len(found.labels) == 10
    assert gpt.distribution().prompt == PROMPT  # celle de l'entraînement
    with pytest.raises(ConfigurationError, match="`prompt`"):
        GPT(model=gpt.model, tokenizer=gpt.tokenizer, device=gpt.device).distribution()


def test_a_figure_shows_itself(gpt):
    pytest.importorskip("matplotlib", reason="matplotlib n'est pas installé")
    figure = gpt.distribution("Un soir").plot()
    assert figure._repr_svg_().rstrip().endswith("</svg>")


def test_a_trace_has_its_page_and_its_tables(gpt):
    found = gpt.trace("Un soir", max_tokens=3, top_k=3, seed=1)
    assert found.page().startswith("<!doctype html>")
    assert "restent" in str(found)
    tags = read_cell(found._repr_html_()).tags
    assert tags.count("table") == tags.count("details") == len(found.steps) == 3


def test_long_things_are_cut(gpt):
    found = gpt.trace("Un", max_tokens=60, top=1, ignore_eos=True)
    reader = read_cell(found._repr_html_())
    assert reader.tags.count("table") == notebook.MOST_ROWS
    assert "Les 10 tokens suivants" in reader.text
    table = Table({"x": list(range(1000))})
    assert read_cell(table._repr_html_()).tags.count("tr") <= notebook.MOST_ROWS + 1


class TestTable:
    table = Table({"step": [0, 1], "loss": [2.5, 1.5]})

    def test_rows_and_columns(self):
        assert self.table["loss"] == [2.5, 1.5]
        assert list(self.table) == [{"step": 0, "loss": 2.5}, {"step": 1, "loss": 1.5}]
        assert len(self.table) == 2
        assert len(Table({})) == 0

    def test_pandas(self, monkeypatch):
        pytest.importorskip("pandas", reason="pandas n'est pas installé")
        assert self.table.to_pandas()["loss"].tolist() == [2.5, 1.5]
        monkeypatch.setitem(__import__("sys").modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            self.table.to_pandas()


def luminance(colour):
    values = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
    return 0.2126 * values[0] + 0.7152 * values[1] + 0.0722 * values[2]


def contrast(one, other):
    """Rapport de contraste des règles d'accessibilité (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(text):
    return [int(text[start : start + 2], 16) / 255 for start in (1, 3, 5)]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_contrasts(background):
    """Sur chaque fond : le texte sur une couleur 4,5 ; une courbe 2,5 et le tireté la distingue."""
    style, paper, ink = STYLE.read_text("utf-8"), rgb(background), rgb(BACKGROUNDS[background])
    overlays = re.findall(r"background: rgb\((\d+) (\d+) (\d+) / ([.\d]+)\)", style)
    assert len(overlays) >= 10
    for *colour, alpha in overlays:
        mixed = [
            int(each) / 255 * float(alpha) + below * (1 - float(alpha))
            for each, below in zip(colour, paper, strict=True)
        ]
        assert contrast(mixed, ink) >= 4.5, (colour, alpha)
    series = re.findall(r"--s\d: (#\w{6})", style)
    assert len(series) == 8
    floor = 3.0 if background in ("#ffffff", "#111111", "#1e1e1e") else 2.2
    for colour in series:
        assert contrast(rgb(colour), paper) >= floor, colour


def test_an_evaluation_has_its_tables(gpt, tmp_path):
    text = tmp_path / "texte.txt"
    text.write_text("Un soir d'octobre, la cloche sonna. " * 4, encoding="utf-8")
    found = evaluate(gpt, text, progress=False)
    assert "Perplexité" in read_cell(found._repr_html_()).text
    assert "perplexité" in repr(found)
    assert "Textes" in str(found)
    assert found.loss == found.text.total.loss
