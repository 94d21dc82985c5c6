"""`--log-format json` : sur stderr, un objet par ligne, quelle que soit la commande."""

import json

import pytest
from cli_helpers import tiny

from gpt_architecture.reports.console import say_aside, shape_asides


@pytest.fixture(autouse=True)
def plain_asides():
    """Aucun autre test n'hérite de la forme que prend le journal ici."""
    yield
    shape_asides(None)


def lines(outcome):
    """Les objets de stderr, et rien d'autre."""
    found = [json.loads(line) for line in outcome.err.splitlines()]
    for line in found:
        assert {"time", "level", "message"} <= set(line)
        assert line["message"].strip()
    return found


@pytest.mark.slow
def test_a_training_speaks_json(cli):
    """L'avancement et les avis sont des objets ; les résultats restent sur stdout, en texte."""
    outcome = cli("train", *tiny(), "--log-format", "json")
    assert outcome.code == 0
    assert len(lines(outcome)) >= 1
    assert {line["level"] for line in lines(outcome)} <= {"info", "warning"}
    assert "gpt-model.pt" in outcome.out
    assert not any(line.startswith("{") for line in outcome.out.splitlines())


def test_failures_are_objects_too(cli):
    """Refus d'une commande, d'une option, d'un fichier : une ligne, son niveau, le même code."""
    for arguments, code in ((("inspect", "absent.pt"), 1), (("inspect", "--tempurature"), 2)):
        plain, told = cli(*arguments), cli(*arguments, "--log-format", "json")
        assert plain.code == told.code == code
        (line,) = lines(told)
        assert line["level"] == "error"
        assert plain.err.strip() == f"erreur : {line['message']}"


@pytest.mark.parametrize(
    "name", ["GPT_ARCHITECTURE_LOG_FORMAT", "GPT_ARCHITECTURE_INSPECT_LOG_FORMAT"]
)
def test_the_variable(cli, monkeypatch, name):
    monkeypatch.setenv(name, "json")
    (line,) = lines(cli("inspect", "absent.pt"))
    assert "absent.pt" in line["message"]


def test_the_file_of_options(cli, tmp_path):
    (tmp_path / "options.toml").write_text('[inspect]\nlog_format = "json"\n', encoding="utf-8")
    (line,) = lines(cli("inspect", "absent.pt", "--config", tmp_path / "options.toml"))
    assert "absent.pt" in line["message"]


def test_the_next_command_speaks_text_again(cli):
    """Deux commandes d'un même processus ne se prêtent rien."""
    lines(cli("inspect", "absent.pt", "--log-format", "json"))
    cli("inspect", "absent.pt").check_one_line_error(1, "absent.pt")


def test_another_form_is_refused(cli):
    outcome = cli("inspect", "absent.pt", "--log-format", "xml")
    outcome.check_one_line_error(2, "--log-format", "json")


def test_no_line_forges_another(capsys):
    """Un saut de ligne reste dans son objet."""
    from gpt_architecture.cli.logs import JsonLines, configure_logs, in_journal

    configure_logs(JsonLines())
    shape_asides(in_journal)
    say_aside('a\n{"level": "error"}\u2028b')
    configure_logs()
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == 'a\n{"level": "error"}\u2028b'
