"""Écrire un noyau : ses arguments sont vérifiés, son code n'est jamais plus vieux que sa source."""

import ast
import importlib.util
import logging
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_architecture import kernels
from gpt_architecture.core.grouped_codes import BITS, GROUP_SIZES, UNIT, Scheme, bits_of
from gpt_architecture.kernels.decode import integer_tiles, weights
from gpt_architecture.kernels.runtime.kernel import (
    SOURCES,
    Announcement,
    Integer,
    Lots,
    Vector,
    digest,
    kernel,
    launch,
)
from gpt_architecture.kernels.runtime.program import Program
from gpt_architecture.kernels.train import kernels as train_kernels

PACKAGE = Path(kernels.__file__).parent
ROOT = Path(__file__).resolve().parents[2]


def test_compilation_is_announced_once(caplog):
    """Une ligne au premier noyau compilé, plus rien ensuite."""
    announcement = Announcement()
    with caplog.at_level(logging.INFO, logger="gpt_architecture.kernels.runtime.kernel"):
        announcement.on_start(None)
        announcement.on_end(None)
        announcement.on_start(None)
    assert [record.message for record in caplog.records] == [
        "première utilisation sur cette machine : "
        "les noyaux se compilent, une vingtaine de secondes"
    ]


# --- L'exemple de docs/architecture/noyaux.md ---------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Le module que montre la page, chargé d'un fichier comme on l'écrirait."""
    page = (ROOT / "docs/architecture/noyaux.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    path = tmp_path_factory.mktemp("noyau") / "exemple_kernels.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("exemple_kernels", path)
    module = sys.modules["exemple_kernels"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # ses assertions comparent à PyTorch
    yield module
    del sys.modules["exemple_kernels"]


@pytest.mark.slow
def test_arguments_have_the_names_of_the_signature(example):
    assert [*example.axpy_.arguments] == ["a", "x", "y", "block"]
    assert example.axpy_.slot("y") == 2
    assert [*train_kernels.gelu_.arguments] == ["pre", "bias", "out"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 16, 33])
def test_the_example_is_right_with_any_number_of_threads(example, rows, threads):
    x, y = torch.randn(rows, 5), torch.randn(rows, 5)
    expected, before = torch.add(y, x, alpha=-2.0), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        example.axpy(-2.0, x, y, block=4)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, expected)


@kernel
def greedy_(lots: Lots, size: Integer, y: Vector) -> None:
    """Demande `size` octets, puis écrit."""
    taken = np.empty(size, np.uint8)
    for lot in lots:
        y[lot] = np.float32(taken.size)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # dite par Numba
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("together", [False, True], ids=["seul", "programme"])
def test_a_lack_of_memory_is_an_error(threads, together):
    """Numba abandonne le noyau sans rien rendre ; l'appelant le sait, et le passage d'après va."""
    y, before = torch.zeros(4), torch.get_num_threads()
    program = Program()
    program.add(greedy_, 4, 1 << 60, y)
    program.seal()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(MemoryError, match=r"la mémoire a manqué pendant le calcul \(greedy\)"):
            program.run() if together else launch(greedy_, 4, 1 << 60, y)
        assert not y.any()
        program.set_word_([0], "size", 8)
        program.run() if together else launch(greedy_, 4, 8, y)
    finally:
        torch.set_num_threads(before)
    assert (y == 8).all()


def test_the_code_kept_on_disk_is_named_after_the_sources(example):
    """Le cache de Numba : son nom change avec l'empreinte, qui change avec les sources."""
    names = [path.name for path in Path(example.__file__).parent.rglob("*.nbi")]
    assert names
    assert all(SOURCES in name for name in names)
    assert train_kernels.adamw_.compiled.__wrapped__.__qualname__.endswith(SOURCES)


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.5, X, X),  # un argument manque
        (0.5, X, X, 4, 4),  # un de trop
        (1, X, X, 4),  # un entier serait lu comme les bits d'un réel
        (0.5, X, X, 4.0),
        (0.5, X.double(), X, 4),
        (0.5, X, X.t(), 4),  # pas contigu
        (0.5, X[0], X, 4),
        (0.5, 3.0, X, 4),
    ],
)
def test_arguments_that_would_be_read_out_of_bounds_are_refused(example, arguments):
    with pytest.raises(TypeError, match="axpy_"):
        launch(example.axpy_, 1, *arguments)


# --- La clé du code compilé ----------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path):
    copy = tmp_path / "kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert digest(copy) == digest(PACKAGE) == SOURCES
    return copy


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("decode/weights.py", "STRIP_ROWS = 16", "STRIP_ROWS = 32"),  # figée dans une tuile
        ("runtime/kernel.py", "SLOT, HEADER = 5, 9", "SLOT, HEADER = 5, 8"),
        ("runtime/arithmetic.py", "_F(0.044715)", "_F(0.044716)"),  # incluse dans cinq noyaux
        ("train/kernels.py", "ROW_BLOCK = 32", "ROW_BLOCK = 64"),
        ("decode/float_tiles.py", "_WIDE_UNROLL = 16", "_WIDE_UNROLL = 8"),
    ],
)
def test_a_changed_constant_changes_the_key(sources, name, before, after):
    path = sources / name
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")
    assert digest(sources) != SOURCES


def test_a_new_or_renamed_source_changes_the_key(sources):
    (sources / "decode/other.py").write_text("", encoding="utf-8")
    assert digest(sources) != SOURCES
    (sources / "decode/other.py").unlink()
    (sources / "decode/step.py").rename(sources / "decode/stride.py")
    assert digest(sources) != SOURCES


def imported(node):
    """Modules importés à l'exécution, sous ce nœud."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return set()
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module}
    return {name for child in ast.iter_child_nodes(node) for name in imported(child)}


def module_of(path):
    return ".".join(["gpt_architecture.kernels", *path.relative_to(PACKAGE).with_suffix("").parts])


def is_compiled(tree):
    """Vrai si ce fichier emploie Numba, ou définit un noyau ou ce qu'il appelle."""
    return any(name.split(".")[0] == "numba" for name in imported(tree)) or any(
        isinstance(node, ast.FunctionDef) and any(map(is_kernel, node.decorator_list))
        for node in tree.body
    )


def is_kernel(decorator):
    return ast.unparse(decorator) in ("kernel", "emitted")


TREES = {
    module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")
}
COMPILED = {module: imported(tree) for module, tree in TREES.items() if is_compiled(tree)}
"""Fichiers qui emploient Numba, et ce qu'ils importent."""


def test_nothing_is_baked_in_from_outside_the_package():
    """L'empreinte ne lit que `kernels` : une constante d'ailleurs y resterait vieille."""
    assert len(COMPILED) >= 8
    for module, names in COMPILED.items():
        ours = {name for name in names if name.startswith("gpt_architecture")}
        assert all(name.startswith("gpt_architecture.kernels.") for name in ours), module


def test_the_tiles_and_the_codes_agree_on_sizes():
    """Un groupe, et une ligne complétée, sont de tours entiers ; chaque schéma a ses tuiles."""
    assert all(size % weights.CHUNK == 0 for size in (UNIT, *GROUP_SIZES))
    schemes = [Scheme(name=name) for name in BITS]
    found = {bits_of(module, each) for each in schemes for module in ("out_head", "ff.layers.0")}
    assert found == set(integer_tiles.BITS)


def test_mypy_is_lenient_with_these_files_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    overrides = project["tool"]["mypy"]["overrides"]
    (lenient,) = (each["module"] for each in overrides if "disable_error_code" in each)
    assert set(lenient) == set(COMPILED)
