"""Les erreurs : une ligne qui dit ce qu'on a trouvé, ce qu'on attendait et que faire."""

import ast
import errno
import re
import shlex
import socket
import tomllib
from http.client import RemoteDisconnected
from pathlib import Path

import pytest

from gpt_architecture import errors
from gpt_architecture.cli.app import build_app
from gpt_architecture.cli.usage import with_options
from gpt_architecture.errors import (
    CertificateError,
    CheckpointError,
    ConfigurationError,
    DataError,
    GenerationError,
    GPTArchitectureError,
    MissingDependencyError,
    ModelFileError,
    NonFiniteError,
    OutputError,
    ReceiptError,
    ServiceError,
    TokenizerError,
    TrainingError,
    is_out_of_memory,
    located,
    reason,
)

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gpt_architecture"

FAMILY = [
    GPTArchitectureError,
    ConfigurationError,
    DataError,
    TokenizerError,
    ModelFileError,
    OutputError,
    TrainingError,
    GenerationError,
    CheckpointError,
    CertificateError,
    ReceiptError,
    ServiceError,
]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_message_says_found_expected_and_remedy_in_one_line(kind):
    error = kind("--lr vaut -1", expected="un nombre > 0", remedy="corrigez --lr")
    assert str(error) == "--lr vaut -1 (attendu : un nombre > 0) ; corrigez --lr."
    assert "\n" not in str(error)
    assert (error.found, error.expected, error.remedy) == (
        "--lr vaut -1",
        "un nombre > 0",
        "corrigez --lr",
    )


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_what_a_file_says_cannot_break_the_line_nor_command_the_terminal(kind):
    error = kind("clé \n\x1b[31m", expected="a\u2028b", remedy="c\x9bd")
    assert str(error) == "clé  [31m (attendu : a b) ; c d."


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_expected_and_remedy_are_required(kind):
    with pytest.raises(TypeError):
        kind("trouvé")


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_only_usage_errors_exit_with_two(kind):
    assert kind.exit_code == (2 if kind is ConfigurationError else 1)


def test_every_error_of_the_module_has_one_root():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert set(kinds) == {*FAMILY, MissingDependencyError, NonFiniteError}
    assert all(issubclass(kind, GPTArchitectureError) for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigurationError, ValueError),
        (DataError, ValueError),
        (TokenizerError, ValueError),
        (MissingDependencyError, ImportError),
    ],
)
def test_builtin_counterparts(kind, builtin):
    assert issubclass(kind, builtin)


class TestMissingDependency:
    def test_names_the_package_and_its_installation(self):
        error = MissingDependencyError("tiktoken", purpose="le tokenizer gpt2")
        assert error.package == "tiktoken"
        assert "pip install tiktoken" in str(error)
        assert "le tokenizer gpt2" in str(error)
        assert "\n" not in str(error)
        assert error.exit_code == 1

    def test_is_caught_as_an_import_error(self):
        with pytest.raises(ImportError, match="tiktoken"):
            raise MissingDependencyError("tiktoken", purpose="le tokenizer gpt2")


def test_an_extra_installs_from_the_clone():
    """Dans un clone, la commande de l'extra désigne ce clone."""
    root = Path(__file__).resolve().parents[1]
    error = MissingDependencyError("fastapi", purpose="servir un modèle", extra="serve")
    assert error.remedy == f"installez-le : pip install -e {shlex.quote(f'{root}[serve]')}"


def test_an_extra_names_its_packages_elsewhere(monkeypatch, tmp_path):
    """Hors d'un clone, ce sont ses paquets : le projet n'est peut-être publié nulle part."""
    monkeypatch.setattr(
        errors, "__file__", str(tmp_path / "lib" / "gpt_architecture" / "errors.py")
    )
    command = shlex.split(errors.install_command("serve"))
    assert command[:2] == ["pip", "install"]
    names = {part.split(">")[0] for part in command[2:]}
    assert names >= {"fastapi", "uvicorn", "prometheus-client", "llguidance"}
    assert not names & {"torch", "numba", "matplotlib"}  # la base et les autres extras n'y sont pas


def advised():
    """(fichier, ce qu'il dit d'installer) : les refus de dépendance, et « pip install X » écrit."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == (
                "MissingDependencyError"
            ):
                given = [node.args[0], *(k.value for k in node.keywords if k.arg == "extra")]
                names = [each.value for each in given if isinstance(each, ast.Constant)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = re.findall(r"pip install ([a-z][\w-]*(?:\[[\w-]+\])?)", node.value)
            else:
                continue
            found += [(path.relative_to(SOURCE).as_posix(), name) for name in names]
    return found


def test_what_is_advised_can_be_installed():
    """Chaque paquet est une dépendance déclarée, chaque groupe un extra du projet."""
    root = Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(each for group in extras.values() for each in group)]
    names = {re.split(r"[<>=]", each)[0] for each in declared}
    found = advised()
    assert len(found) > 12
    assert {name for _, name in found} >= {"serve", "numba", "matplotlib"}
    assert [each for each in found if each[1] not in names | set(extras)] == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "-1"),
        ("abc", "'abc'"),
        (10**18, "1000000000000000000"),
        (10**5_000, "un entier de 16610 bits"),
        (-(10**5_000), "un entier de 16610 bits"),
    ],
    ids=["négatif", "texte", "grand", "démesuré", "démesuré-négatif"],
)
def test_a_value_is_shown_whole_when_it_is_short(value, said):
    assert errors.shown(value) == said


@pytest.mark.parametrize(
    "value", ["x" * 10**6, ["x" * 1_000] * 1_000, {1: {2: {3: "x" * 999}}}], ids=type
)
def test_a_huge_value_is_shown_in_a_few_words(value):
    assert len(errors.shown(value)) < 700


# --- Les options des commandes ---------------------------------------------------------------

OPTION = re.compile(r"(?<![\w-])--[a-z]")
CITED = re.compile(r"gpt-architecture [^»;]*")
"""Une commande entière, à copier, a ses options ; une phrase de la bibliothèque n'en nomme pas."""


def option_names(source):
    """Ligne de chaque texte, hors docstrings, qui nomme une option de commande."""
    tree = ast.parse(source)
    parts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if id(node) in parts | docs:
            continue
        if isinstance(node, ast.JoinedStr):
            values = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
            text = "".join(values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if OPTION.search(CITED.sub("", text)):
            found.append(node.lineno)
    return sorted(found)


LIBRARY = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path.relative_to(SOURCE).parts[0]
    not in ("cli", "reports", "scripts", "main.py", "__main__.py")
)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_library_names_no_option(path):
    assert option_names(path.read_text(encoding="utf-8")) == []


def test_the_option_checker_can_fail():
    assert option_names('raise E("réduisez --lr")\nf"changez --{x}"\nx = f"--data {y}"') == [1, 3]
    assert option_names('"""--lr"""\nx = "gpt-architecture merge A --out B"\ny = "a--b"') == []


class TestSettingsBecomeOptions:
    """Un réglage entre accents graves devient l'option de la commande qui parle."""

    @pytest.mark.parametrize(
        ("tokens", "message", "expected"),
        [
            (["train"], "réduisez `batch_size`.", "réduisez --batch-size."),
            (["train"], "ajoutez `memory=lean`", "ajoutez --memory lean"),
            (["tokenizer", "train"], "`field` manque", "--field manque"),
            (["inspect"], "réduisez `batch_size`", "réduisez batch_size"),
            (["demo"], "essayez `seed=1 2 3`", "essayez --seed 1 2 3"),
            ([], "`device=cpu`", "device=cpu"),
            (["rien"], "`device`", "device"),
            (["train"], "un `code Python` reste", "un `code Python` reste"),
        ],
    )
    def test_translation(self, tokens, message, expected):
        assert with_options(message, build_app(), tokens) == expected


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (FileNotFoundError(2, "No such file"), "vérifiez le chemin et les droits"),
        (PermissionError(13, "Permission denied"), "vérifiez le chemin et les droits"),
        ("en-tête coupé", "recopiez-le depuis sa source"),
    ],
)
def test_an_unreadable_file_has_the_remedy_of_its_cause(why, remedy):
    assert DataError.unreadable("x", why, expected="un texte").remedy == remedy


def test_wrong_and_together_name_the_settings():
    wrong = ConfigurationError.wrong("top_p", 2, expected="un nombre ≤ 1")
    assert str(wrong) == "top_p vaut 2 (attendu : un nombre ≤ 1) ; corrigez top_p."
    both = ConfigurationError.together("`resume`", "`preset`")
    assert str(both) == (
        "`resume` et `preset` sont donnés ensemble (attendu : l'un ou l'autre) ; retirez `preset`."
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("unable to mmap 4 bytes: Cannot allocate memory (12)"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_lack_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), "adresse déjà prise"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connexion refusée"),
        (RemoteDisconnected("Remote end closed connection"), "connexion coupée"),
        (socket.gaierror(-2, "Name or service not known"), "nom de machine inconnu"),
        (ValueError("le nôtre\nla suite"), "le nôtre"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_the_system_says_is_in_french(error, said):
    assert reason(error) == said


def test_a_setting_is_marked_where_the_sentence_names_it():
    """Ni dans une valeur, ni au milieu d'un mot : « p » n'est pas celui de « top_p »."""
    error = ConfigurationError.wrong("p", "p", expected="un nombre comme top_p ou n-p")
    assert str(error) == "p vaut 'p' (attendu : un nombre comme top_p ou n-p) ; corrigez p."
    assert error.marked == ("`p` vaut 'p' (attendu : un nombre comme top_p ou n-p) ; corrigez `p`.")
    given = ConfigurationError.wrong("--server", 3, expected="une adresse")
    assert given.marked == str(given)


def test_where_an_error_comes_from_is_said():
    """Sa sorte reste, ou devient celle demandée ; ce qu'elle attendait reste."""
    with pytest.raises(MissingDependencyError, match="source a : ") as kept, located("source a"):
        raise MissingDependencyError("numba", purpose="essai")
    assert "pip install" in kept.value.remedy
    where = "f.csv, rangée 3"
    with (
        pytest.raises(DataError, match=f"{where} : `p` vaut 2") as changed,
        located(where, DataError),
    ):
        raise ConfigurationError.wrong("`p`", 2, expected="moins")
    assert (changed.value.expected, changed.value.exit_code) == ("moins", 1)
    with pytest.raises(ZeroDivisionError), located("ailleurs"):
        raise ZeroDivisionError
