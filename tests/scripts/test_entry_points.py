"""Chaque commande se lance de toutes les façons promises ; aide, version, visite, codes."""

import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from cli_helpers import run_process, tiny
from pypdf import PdfReader

import gpt_architecture
from gpt_architecture.cli.app import COMMANDS, SUBCOMMANDS

SOURCE = Path(gpt_architecture.__file__).resolve().parent
SCRIPTS = SOURCE / "scripts"


def test_every_way_to_launch_a_process():
    """`python3 x.py` depuis scripts/, `python -m …scripts.x`, `python -m gpt_architecture x`."""
    ways = [
        ([sys.executable, "train.py", "--help"], SCRIPTS),
        ([sys.executable, "-m", "gpt_architecture.scripts.train", "--help"], None),
        ([sys.executable, "-m", "gpt_architecture", "train", "--help"], None),
    ]
    outputs = []
    for arguments, folder in ways:
        outcome = run_process(*arguments, cwd=folder)
        assert outcome.code == 0, outcome.err
        outputs.append(outcome.out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert "Usage : gpt-architecture train" in outputs[0]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # déjà importés ici
@pytest.mark.parametrize("command", COMMANDS)
def test_every_script_is_its_command(cli, capsys, monkeypatch, command):
    """Par son chemin ou par son nom de module, chaque fichier lance sa commande."""
    expected = cli(command, "--help").out
    monkeypatch.setattr(sys, "argv", [f"{command}.py", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    for run, name in (
        (runpy.run_path, str(SCRIPTS / f"{command}.py")),
        (runpy.run_module, f"gpt_architecture.scripts.{command}"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(name, run_name="__main__")
        assert not stop.value.code
        assert capsys.readouterr().out == expected
    assert f"Usage : gpt-architecture {command}" in expected


def test_scripts_work_by_path_without_installation(trained, tmp_path):
    """La suite du document : train puis infer depuis scripts/, sans que le paquet soit installé."""
    code = (
        "import sys, runpy; sys.path[:] = [p for p in sys.path if not p.endswith('/src')]; "
        f"sys.argv = ['infer.py', '--model', {str(trained / 'gpt-model.pt')!r}, "
        "'--prompt', 'La lampe', '--max_tokens', '5']; "
        f"sys.path.insert(0, {str(SCRIPTS)!r}); "
        f"runpy.run_path({str(SCRIPTS / 'infer.py')!r}, run_name='__main__')"
    )
    outcome = run_process(sys.executable, "-c", code, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("La lampe")


def test_train_by_path_writes_where_it_is_launched(tmp_path):
    """`python3 chemin/train.py` écrit dans le dossier courant."""
    outcome = run_process(sys.executable, SCRIPTS / "train.py", *tiny(), cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "gpt-model.pt").is_file()
    assert (tmp_path / "loss-plot.pdf").is_file()


@pytest.mark.parametrize(
    ("command", "expected"),
    [("infer", "La lampe"), ("demo", "Mesures"), ("visualize", "temperature-visualization.pdf")],
)
def test_scripts_run_as_processes(trained, tmp_path, command, expected):
    """Chaque commande, dans son propre processus, avertissements interdits."""
    outcome = run_process(
        *(sys.executable, "-W", "error", SCRIPTS / f"{command}.py"),
        *("--prompt", "La lampe", "--model", trained / "gpt-model.pt"),
        cwd=tmp_path,
    )
    assert outcome.code == 0, outcome.err
    assert expected in outcome.out
    if command == "visualize":
        assert len(PdfReader(tmp_path / expected).pages) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *((name,) for name in COMMANDS if name not in SUBCOMMANDS),
        *((name, each) for name, group in SUBCOMMANDS.items() for each in group),
    ],
    ids=" ".join,
)
def test_every_option_has_a_french_help_line(cli, command):
    """Chaque option a sa description ; rien d'anglais dans l'aide."""
    out = cli(*command, "--help").out
    assert "[défaut : ]" not in " ".join(out.replace("│", " ").split())
    rows = [line.strip("│ ").rstrip() for line in out.splitlines() if "│" in line]
    options = [row for row in rows if row.startswith("--")]
    assert len(options) > 3
    for row in options:
        assert re.match(r"--[a-z0-9-]+( --[a-z0-9-]+)*( i/N| [A-ZÈÉ…=:-]+)?\s{2,}[A-ZÉ]", row), row
    for english in ("Usage:", "default:", "Display", "Parameters", "[choices", "required"):
        assert english not in out


@pytest.mark.slow
@pytest.mark.parametrize("group", SUBCOMMANDS)
def test_a_group_shows_its_commands(cli, group):
    """Sans sous-commande, ou avec --help : la liste de celles-ci, en français."""
    for arguments in ((group,), (group, "--help")):
        outcome = cli(*arguments)
        assert outcome.code == 0
        assert f"Usage : gpt-architecture {group} COMMANDE\n" in outcome.out
        assert all(f" {name} " in outcome.out for name in SUBCOMMANDS[group])
        assert "Commands" not in outcome.out
    cli(group, "xyz").check_one_line_error(2, "commande inconnue : xyz")


def test_help_does_not_import_torch():
    """--help reste rapide : ni PyTorch, ni tiktoken, ni matplotlib."""
    code = (
        "import sys\nfrom gpt_architecture.main import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'tiktoken', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "print('lourds :', sorted(heavy))"
    )
    outcome = run_process(sys.executable, "-c", code)
    assert outcome.out.splitlines()[-1] == "lourds : []"


def test_version(cli):
    """--version donne la version du paquet."""
    assert cli("--version").out.strip() == f"gpt-architecture {gpt_architecture.__version__}"


def test_tour_without_a_model(cli):
    """Sans argument ni modèle : les commandes, et par où commencer."""
    outcome = cli()
    assert outcome.code == 0
    for command in COMMANDS:
        assert f"gpt-architecture {command}" in outcome.out
    assert "Aucun modèle ici" in outcome.out


def test_tour_with_a_model(cli, trained, monkeypatch):
    """Sans argument, avec un modèle : lequel, et quoi lancer ensuite."""
    monkeypatch.chdir(trained)
    outcome = cli()
    assert "Modèle trouvé" in outcome.out
    assert "gpt-architecture demo\n" in outcome.out


def test_tour_with_a_model_in_a_folder(cli, trained, monkeypatch, tmp_path):
    """Celui qu'un préréglage a écrit dans son dossier : le dernier, et les commandes le nomment."""
    monkeypatch.chdir(tmp_path)
    for rank, name in enumerate(("ancien", "mon modèle")):
        Path(name).mkdir()
        shutil.copy(trained / "gpt-model.pt", name)
        os.utime(Path(name, "gpt-model.pt"), (rank, rank))
    outcome = cli()
    assert "Modèle trouvé : mon modèle/gpt-model.pt" in outcome.out
    assert "gpt-architecture demo 'mon modèle/gpt-model.pt'\n" in outcome.out
    refused = cli("infer", "--prompt", "La lampe")
    refused.check_one_line_error(1, "ajoutez --model 'mon modèle/gpt-model.pt'.")


def test_main_by_path(tmp_path):
    """`python src/gpt_architecture/main.py` est la même commande."""
    outcome = run_process(sys.executable, SOURCE / "main.py", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "gpt-architecture train" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(("word", "hint"), [("trian", "essayez train"), ("xyz", "--help")])
def test_unknown_command(cli, word, hint):
    """Une commande inconnue : une ligne, la plus proche, code 2."""
    cli(word).check_one_line_error(2, f"commande inconnue : {word}", hint)


def test_debug_shows_the_traceback():
    """--debug : la pile d'appels entière."""
    command = (sys.executable, "-m", "gpt_architecture", "infer", "--model", "absent.pt")
    assert "Traceback" in run_process(*command, "--debug").err
    assert "Traceback" not in run_process(*command).err


def test_closed_pipe_is_silent(trained):
    """`gpt-architecture demo | true` ne laisse ni pile d'appels ni bruit."""
    command = f"{sys.executable} -m gpt_architecture demo --json --model {trained / 'gpt-model.pt'}"
    outcome = run_process("bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "Exception" not in outcome.err


@pytest.mark.parametrize("command", ["train --epochs 1", "infer", "--help"])
def test_closed_output_is_one_sentence(command):
    """Sans sortie standard, rien ne commence : une phrase en français."""
    whole = f"{sys.executable} -m gpt_architecture {command} >&-"
    outcome = run_process("bash", "-c", whole)
    outcome.check_one_line_error(1, "la sortie standard est fermée", "/dev/null")
    assert list(Path().iterdir()) == []


def test_closed_error_output_changes_nothing():
    """Sans sortie d'erreur, le code de sortie dit encore ce qui est arrivé."""
    whole = f"{sys.executable} -m gpt_architecture infer --model absent.pt 2>&-"
    outcome = run_process("bash", "-c", whole)
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "")


def test_brackets_in_paths_are_shown(cli, trained, tmp_path, monkeypatch):
    """Un dossier « projet [brouillon] » s'affiche tel quel."""
    folder = tmp_path / "projet [brouillon] [b]"
    folder.mkdir()
    (folder / "gpt-model.pt").write_bytes((trained / "gpt-model.pt").read_bytes())
    monkeypatch.chdir(folder)
    assert "projet [brouillon] [b]" in cli().out


def test_unexpected_failure_is_one_line(cli, monkeypatch):
    """Même un défaut imprévu finit en une ligne ; --debug montre tout."""
    from gpt_architecture.cli import app as application

    def fail():
        raise KeyError("imprévu")

    monkeypatch.setattr(application, "show_tour", fail)
    cli().check_one_line_error(1, "imprévu", "--debug")


def test_environment_config_does_not_break_other_commands(cli, trained, tmp_path, monkeypatch):
    """Un TOML désigné par l'environnement peut ne régler qu'une commande ; l'aide l'ignore."""
    config = tmp_path / "c.toml"
    config.write_text("[train]\nepochs = 2\n", encoding="utf-8")
    monkeypatch.setenv("GPT_ARCHITECTURE_CONFIG", str(config))
    model = trained / "gpt-model.pt"
    assert cli("infer", "--model", model, "--prompt", "La lampe").code == 0
    monkeypatch.setenv("GPT_ARCHITECTURE_CONFIG", str(tmp_path / "absent.toml"))
    assert cli("train", "--help").code == 0
    assert cli("--version").code == 0
