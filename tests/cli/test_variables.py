"""Une variable d'environnement mal écrite est dite, avec le nom le plus proche."""

import pytest

PREFIX = "GPT_ARCHITECTURE_"


def warnings(outcome):
    return [line for line in outcome.err.splitlines() if line.startswith("avertissement : aucune")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("EPOCH", "essayez GPT_ARCHITECTURE_EPOCHS"),
        ("TRAIN_EPOCH", "essayez GPT_ARCHITECTURE_TRAIN_EPOCHS"),
        ("TEMPRATURE", "essayez GPT_ARCHITECTURE_TEMPERATURE"),
        ("API_KEYZ", "essayez GPT_ARCHITECTURE_API_KEY"),
        ("XYZW", "retirez-la"),
    ],
)
@pytest.mark.parametrize(
    "command", [("inspect", "absent.pt"), ("tokenizer", "view", "mot"), ("infer",), ()]
)
def test_a_mistyped_variable(cli, monkeypatch, command, name, advice):
    """À chaque commande, même à celle qui n'a pas l'option visée."""
    monkeypatch.setenv(PREFIX + name, "3")
    (line,) = warnings(cli(*command))
    assert f"{PREFIX}{name} ;" in line
    assert advice in line


def test_known_variables_are_silent(cli, monkeypatch):
    """Les options de toute commande, avec ou sans son nom, et les variables du projet."""
    names = ("EPOCHS", "TRAIN_LR", "TOKENIZER_TRAIN_VOCAB_SIZE", "TOP_K", "OFFLINE", "JSON")
    for name in (*names, "API_KEY", "API_KEYS", "TEST_DATA", "DEMO_SEED", "MODEL", "JSON_FILE"):
        monkeypatch.setenv(PREFIX + name, "1")
    assert warnings(cli("quantize", "absent.pt")) == []


@pytest.mark.slow
def test_the_command_line_wins_over_the_model_variable(cli, monkeypatch):
    monkeypatch.setenv(f"{PREFIX}MODEL", "variable.pt")
    cli("inspect").check_one_line_error(1, "variable.pt")
    cli("inspect", "donne.pt").check_one_line_error(1, "donne.pt")
    cli("convert", "donne.pt", "copie.pt", "--to", "pt").check_one_line_error(1, "donne.pt")
