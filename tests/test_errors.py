"""Les erreurs : une ligne qui dit ce qu'on a trouvé, ce qu'on attendait et que faire."""

import shlex
from pathlib import Path

import pytest

from gpt_architecture import errors
from gpt_architecture.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    GenerationError,
    GPTArchitectureError,
    MissingDependencyError,
    ModelFileError,
    NonFiniteError,
    OutputError,
    ServiceError,
    TokenizerError,
    TrainingError,
)

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
    assert names == {"fastapi", "uvicorn", "prometheus-client", "llguidance"}


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
