"""La documentation dit vrai : chaque commande, chaque lien, chaque exemple de code."""

import re
import shlex
import shutil
import subprocess
import tomllib

import pytest
from docs_helpers import FENCE, LINK, PAGES, ROOT, anchors, blocks, name_of, text_of

from gpt_architecture.cli.app import COMMANDS, build_app

INLINE = re.compile(r"`((?:make|gpt-architecture|python) [^`]+)`")


def shell_commands():
    """(page, commande) pour chaque ligne des blocs bash et chaque commande en ligne."""
    found = []
    for page in PAGES:
        lines = [line for body in blocks(page, "bash") for line in body.splitlines()]
        prose = FENCE.sub("", text_of(page))
        for line in [*lines, *INLINE.findall(prose)]:
            command = line.split(" #")[0].strip()
            if command and "…" not in command and "COMMANDE" not in command:
                found.append(pytest.param(command, id=f"{name_of(page)}: {command}"))
    return found


def parse(tokens):
    """Fait lire des arguments par la vraie ligne de commande, sans l'exécuter."""
    command, bound, *_ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
    return command, bound


def check_make(tokens):
    """La cible existe, et les ARGS sont ceux de la commande qu'elle lance."""
    target, arguments = tokens[1], [t.removeprefix("ARGS=") for t in tokens if "ARGS=" in t]
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if arguments and target in COMMANDS:
        parse([target, *shlex.split(arguments[0])])
    elif arguments and target == "test":
        assert all((ROOT / path).exists() for path in shlex.split(arguments[0]))
    elif arguments:
        recipe = next(line for line in done.stdout.splitlines() if "benchmarks/" in line)
        check_options(ROOT / re.search(r"benchmarks/\w+\.py", recipe)[0], shlex.split(arguments[0]))


def check_pip(tokens):
    """Les fichiers existent ; une version citée est celle qui est épinglée."""
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert tokens[1] == "install"
    for token in tokens[2:]:
        if "==" in token:
            assert token in pins
        elif token.endswith(".txt"):
            assert (ROOT / token).is_file()


def check_options(script, options):
    """Le script existe et connaît chaque option."""
    source = script.read_text(encoding="utf-8")
    for option in options:
        if option.startswith("--"):
            assert f'"{option}"' in source, f"{script.name} ne connaît pas {option}"


@pytest.mark.parametrize("command", shell_commands())
def test_command_is_real(command):
    """Chaque commande montrée est lue par le vrai programme."""
    tokens = shlex.split(command)
    if tokens[0] == "make":
        check_make(tokens)
    elif tokens[0] == "gpt-architecture":
        function, _ = parse(tokens[1:])
        assert function is not None
    elif tokens[0] == "cd":
        folder = ROOT / tokens[1]
        assert folder.is_dir() or set(tokens[1]) <= set("./")
    elif tokens[0].startswith("python") and tokens[1] == "-m" and tokens[2] != "venv":
        module = tokens[2].removeprefix("gpt_architecture.scripts.")
        assert module in COMMANDS
        parse([module, *tokens[3:]])
    elif tokens[0].startswith("python") and tokens[1].startswith(("benchmarks/", "tools/")):
        check_options(ROOT / tokens[1], tokens[2:])
    elif tokens[0].startswith("python") and tokens[1].removesuffix(".py") in COMMANDS:
        assert (ROOT / "src/gpt_architecture/scripts" / tokens[1]).is_file()
        parse([tokens[1].removesuffix(".py"), *tokens[2:]])
    elif tokens[0].startswith("python") and tokens[1].startswith("src/"):
        assert (ROOT / tokens[1]).is_file()
    elif tokens[0] == "pip":
        check_pip(tokens)
    elif tokens[0] == "source" or tokens[1:3] == ["-m", "venv"]:
        assert ".venv" in tokens[-1]
    else:
        pytest.fail(f"commande inconnue de ce test : {command}")


def test_enough_commands_are_found():
    """Le test précédent ne passe pas faute de matière."""
    assert len(shell_commands()) > 25


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """Chaque lien relatif mène à un fichier, chaque ancre à un titre de ce fichier."""
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sources_named_exist(page):
    """Un fichier du code ou des tests nommé dans une page existe ; un test nommé aussi."""
    for name, _, test in re.findall(r"`((?:\w+/)+\w+\.py)(::(\w+))?`", text_of(page)):
        found = [ROOT / name, ROOT / "src" / name, ROOT / "src/gpt_architecture" / name]
        existing = [path for path in found if path.is_file()]
        assert existing or name.startswith(("generate/", "v1/")), name  # ceux de LitGPT, de vLLM
        assert not test or f"def {test}(" in text_of(existing[0]), test


def test_python_examples_run(trained, tmp_path, monkeypatch, capsys):
    """Les exemples Python des pages s'exécutent, à côté d'un modèle, de son dossier, d'un texte."""
    for folder in (tmp_path, tmp_path / "eclair"):
        shutil.copytree(trained, folder, dirs_exist_ok=True)
    novel = ROOT / "src/gpt_architecture/data/assets/la-lampe-du-passeur.txt"
    shutil.copy(novel, tmp_path / "roman.txt")
    monkeypatch.chdir(tmp_path)
    examples = [body for page in PAGES for body in blocks(page, "python")]
    assert examples
    for example in examples:
        exec(compile(example, "exemple", "exec"), {})  # noqa: S102 — notre propre documentation
    assert capsys.readouterr().out.strip()


def test_toml_examples_are_accepted(tmp_path):
    """Les exemples TOML ne contiennent que des options connues."""
    examples = [body for page in PAGES for body in blocks(page, "toml")]
    assert examples
    for example in examples:
        for command, options in tomllib.loads(example).items():
            flags = []
            for name, value in options.items():
                values = value if isinstance(value, list) else [value]
                for each in values:
                    flags += [f"--{name}", str(each)]
            parse([command, *flags])


def test_pages_have_no_placeholder():
    """Aucun passage laissé à remplir."""
    for page in PAGES:
        assert "@@" not in text_of(page), page.name
