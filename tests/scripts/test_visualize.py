"""La commande visualize : la figure, le tableau, le repli."""

import sys
from pathlib import Path

import pytest
from pypdf import PdfReader
from studio_helpers import write_checkpoints


def test_writes_the_figure_and_prints_the_table(cli, trained, tmp_path):
    """Le PDF s'ouvre et parle des mêmes réglages que le tableau."""
    outcome = cli(
        *("visualize", "--model", trained / "gpt-model.pt", "--output-dir", tmp_path),
        *("--temperatures", 0.5, 1, "--k", 3, "--p", 0.7, "--n-tokens", 6),
    )
    assert outcome.code == 0, outcome.err
    pages = PdfReader(tmp_path / "temperature-visualization.pdf").pages
    assert len(pages) == 1
    text = pages[0].extract_text()
    for label in ("T = 0,5", "top-k, k = 3", "top-p, p = 0,7", "Effet de la température"):
        assert label in text
    for label in ("T = 0,5", "T = 1", "top-k, k = 3", "top-p, p = 0,7", "Entropie", "gardés"):
        assert label in outcome.out


@pytest.mark.slow
def test_without_matplotlib_the_table_remains(cli, trained, tmp_path, monkeypatch):
    """Repli : mêmes nombres au terminal, un avertissement, code 0."""
    command = ("visualize", "--model", trained / "gpt-model.pt", "--output-dir", tmp_path)
    with_figure = cli(*command)
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "temperature-visualization.pdf").unlink()
    without = cli(*command)
    assert without.code == 0
    assert "pip install" in without.err
    assert not (tmp_path / "temperature-visualization.pdf").exists()
    assert without.out == with_figure.out.split("Figure :")[0]


def test_bad_options_give_one_line(cli, trained, tmp_path):
    """Températures, k, p, dossier."""
    base = ("visualize", "--model", trained / "gpt-model.pt", "--output-dir", tmp_path)
    cli(*base, "--temperatures", "-1").check_one_line_error(2, "temperature")
    cli(*base, "--temperatures", "chaud").check_one_line_error(2, "chaud", "un nombre")
    cli(*base, "--k", 0).check_one_line_error(2, "k vaut 0")
    cli(*base, "--p", 2).check_one_line_error(2, "p vaut 2")
    cli(*base, "--n-tokens", 0).check_one_line_error(2, "--n-tokens vaut 0")
    cli(*base[:3], "--output-dir", "/dev/null/x").check_one_line_error(1, "/dev/null")


@pytest.mark.slow
def test_what_is_inside_is_printed(cli, trained, tmp_path):
    """Chaque vue imprime son tableau, et n'écrit rien."""
    base = ("visualize", "--model", trained / "gpt-model.pt", "--prompt", "La lampe")
    for view, words, more in (
        ("heads", ("recopie", "Part d'attention", "nats quand la suite se répète"), ()),
        ("lens", ("embedding", "couche 1", "Reste (bits)"), ()),
        ("ablation", ("perceptron", "Le modèle écrirait"), ("--removed", "zero")),
        ("neuron", ("Neurone 2 de la couche 1", "Actif, il pousse"), ("--neuron", "2")),
        ("neighbours", ("Voisins de « lampe »", "Cosinus"), ("--follow", "lampe")),
    ):
        outcome = cli(*base, "--view", view, *more)
        assert outcome.code == 0, outcome.err
        for each in words:
            assert each in outcome.out, (view, each)
    assert not list(Path.cwd().glob("*.pdf"))
    cli(*base, "--view", "neighbours").check_one_line_error(2, "--follow")
    cli(*base, "--view", "ablation", "--follow", "la lampe").check_one_line_error(
        2, "fait 2 tokens"
    )
    cli(*base, "--view", "neuron", "--layer", "9").check_one_line_error(2, "layer vaut 9")
    quantised = cli(*base, "--view", "lens", "--quant", "int8")
    quantised.check_one_line_error(2, "non quantifié")
    cli(*base, "--view", "tout").check_one_line_error(2, "tout")


def test_a_run_is_followed_from_the_terminal(cli, tmp_path):
    write_checkpoints(tmp_path)
    found = cli("visualize", "--model", tmp_path, "--view", "learning", "--prompt", "Le passeur")
    assert found.code == 0, found.err
    for word in ("Étapes", "Validation", "Rang", "Le passeur"):
        assert word in found.out
    command = ("visualize", "--model", tmp_path, "--view", "learning")
    cli(*command).check_one_line_error(2, "--prompt")
    cli(*command[:2], tmp_path.parent, *command[3:], "--prompt", "a").check_one_line_error(
        2, "point de reprise"
    )


@pytest.mark.slow
def test_quantised_weights_are_those_shown(cli, trained, tmp_path):
    """--quant vaut ici aussi : les probabilités sont celles du modèle quantifié."""
    command = ("visualize", "--model", trained / "gpt-model.pt", "--output-dir", tmp_path)
    exact, quantised = cli(*command), cli(*command, "--quant", "int4")
    assert (exact.code, quantised.code) == (0, 0)
    assert exact.out != quantised.out
