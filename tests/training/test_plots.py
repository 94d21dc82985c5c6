"""Courbes de pertes : un vrai PDF, et des refus clairs."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt_architecture.errors import ConfigurationError, MissingDependencyError, OutputError
from gpt_architecture.training.simple import plot_losses

EPOCHS = [0.1, 1.0, 2.0, 3.0]
TOKENS = [512, 5120, 10240, 15360]
TRAIN = [9.8, 6.1, 4.2, 2.0]
VALIDATION = [9.9, 7.0, 6.6, 6.5]


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib.figure", reason="tracé : matplotlib absent")


@pytest.fixture
def pypdf():
    return pytest.importorskip("pypdf", reason="relecture des PDF : pypdf absent")


@pytest.fixture
def without_matplotlib(monkeypatch):
    """Fait comme si matplotlib n'était pas installé."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("matplotlib")
class TestFile:
    @pytest.mark.slow
    def test_is_a_readable_one_page_pdf(self, pypdf):
        path = plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION, "courbes/pertes.pdf")
        assert path == Path("courbes/pertes.pdf")
        reader = pypdf.PdfReader(path)
        assert len(reader.pages) == 1
        text = reader.pages[0].extract_text()
        for words in ("Époques", "Tokens lus", "entraînement", "validation", "Perte"):
            assert words in text

    @pytest.mark.slow
    def test_default_name(self):
        assert plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION) == Path("loss-plot.pdf")
        assert Path("loss-plot.pdf").read_bytes().startswith(b"%PDF-")

    def test_single_evaluation(self, pypdf):
        """Un seul point : pas de second axe, mais une page lisible."""
        path = plot_losses([0.1], [512], [9.8], [9.9], "un.pdf")
        text = pypdf.PdfReader(path).pages[0].extract_text()
        assert "Époques" in text
        assert "Tokens lus" not in text

    def test_no_evaluation(self):
        assert plot_losses([], [], [], [], "vide.pdf").is_file()

    def test_a_slow_machine_raises_no_warning(self, monkeypatch):
        """Placer la légende lui prend plus d'une seconde ; les avertissements sont des erreurs."""
        legend = pytest.importorskip("matplotlib.legend", reason="tracé : matplotlib absent")
        clock = SimpleNamespace(perf_counter=itertools.count(step=2).__next__)
        monkeypatch.setattr(legend, "time", clock)
        assert plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION).is_file()
        assert clock.perf_counter() > 0  # l'horloge a bien servi

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("suffix", "magic"), [(".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")]
    )
    def test_suffix_chooses_the_format(self, suffix, magic):
        path = plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION, f"courbe{suffix}")
        assert path.read_bytes().startswith(magic)

    @pytest.mark.slow
    def test_replaces_an_older_file_and_leaves_nothing_else(self):
        Path("loss-plot.pdf").write_text("ancien", encoding="utf-8")
        plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION)
        assert Path("loss-plot.pdf").read_bytes().startswith(b"%PDF-")
        assert [path.name for path in Path().iterdir()] == ["loss-plot.pdf"]

    @pytest.mark.slow
    def test_no_global_state(self):
        """Ni pyplot ni fenêtre : la bibliothèque trace aussi sur un serveur."""
        loaded = "matplotlib.pyplot" in sys.modules
        plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION)
        assert ("matplotlib.pyplot" in sys.modules) is loaded


@pytest.mark.usefixtures("matplotlib")
class TestRefusals:
    def test_folder_that_cannot_be_created(self):
        Path("fichier").write_text("pas un dossier", encoding="utf-8")
        with pytest.raises(OutputError, match=r"fichier/pertes\.pdf"):
            plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION, "fichier/pertes.pdf")

    def test_path_that_is_a_folder(self):
        Path("dossier.pdf").mkdir()
        with pytest.raises(OutputError, match=r"dossier\.pdf"):
            plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION, "dossier.pdf")
        assert [path.name for path in Path().iterdir()] == ["dossier.pdf"]

    @pytest.mark.parametrize("name", ["courbe.xyz", "courbe"])
    def test_unknown_format_says_which_are_known(self, name):
        """Ce n'est pas le disque qui refuse : l'extension est à changer, rien n'est laissé."""
        with pytest.raises(ConfigurationError, match=r"courbe.*\.pdf, \.svg.*; changez cette ext"):
            plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION, name)
        assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("without_matplotlib")
def test_missing_matplotlib_says_what_to_install():
    with pytest.raises(MissingDependencyError) as caught:
        plot_losses(EPOCHS, TOKENS, TRAIN, VALIDATION)
    assert caught.value.package == "matplotlib"
    assert "pip install matplotlib" in str(caught.value)
    assert not Path("loss-plot.pdf").exists()
