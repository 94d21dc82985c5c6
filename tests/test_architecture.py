"""L'architecture, lue dans l'arbre syntaxique de chaque fichier du paquet.

Les imports ne vont que vers le bas ; deux paquets d'une même couche s'ignorent, et aucun cercle ne
se ferme, imports tardifs compris. Le vérificateur est lui-même éprouvé sur des sources fautives.
"""

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpt_architecture.cli.app import COMMANDS, SUBCOMMANDS

PACKAGE = "gpt_architecture"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE

LAYERS = (
    {"config", "errors", "french", "lazy", "storage"},
    {"core", "data"},
    {"formats", "decoding", "kernels"},
    {"training", "evaluation", "serving", "interop"},
    {"cli", "reports", "api"},
    {"scripts", "main", "__init__", "__main__"},
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
SHARED_LEVELS = (0, 5)
"""Couches dont les membres peuvent s'importer : les modules du bas, les entrées du haut."""
NEIGHBOURS = {("cli", "reports"), ("cli", "api"), ("api", "reports"), ("serving", "evaluation")}
"""Les seuls voisins qui se connaissent : le premier emploie le second."""

LAZY_UNITS = LAYERS[1] | LAYERS[2] | LAYERS[3] | {"api"}
"""Ce que `main`, `cli` et `scripts` n'importent que dans une fonction : PyTorch vient avec."""

UNSAFE_READERS = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "_pickle.load",
    "_pickle.loads",
    "_pickle.Unpickler",
    "shelve.open",
    "marshal.load",
    "marshal.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
}


@dataclass(frozen=True)
class Import:
    """Un module importé : son nom pointé, sa ligne, et s'il l'est dès l'import du fichier."""

    target: str
    line: int
    at_import_time: bool


# --- Le vérificateur -----------------------------------------------------------------------


@functools.cache
def parsed(source):
    """L'arbre d'un fichier, fait une fois pour tous les tests."""
    return ast.parse(source)


def module_name(path, root=SOURCE):
    """`core/model.py` → `gpt_architecture.core.model` ; un `__init__` garde son nom."""
    return ".".join([PACKAGE, *path.relative_to(root).with_suffix("").parts])


def unit_of(target):
    """Premier nom sous la racine ; la racine elle-même est son `__init__`."""
    parts = target.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(source, module):
    """Tous les imports de `source`, noms relatifs résolus, imports dynamiques compris."""
    found = []
    _collect(parsed(source), module, at_import_time=True, found=found)
    return found


def _collect(node, module, *, at_import_time, found):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for outside in [*node.decorator_list, node.args]:  # évalués à la définition
            _collect(outside, module, at_import_time=at_import_time, found=found)
        for child in node.body:
            _collect(child, module, at_import_time=False, found=found)
        return
    if isinstance(node, ast.Lambda):
        _collect(node.body, module, at_import_time=False, found=found)
        return
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        if module != f"{PACKAGE}.__init__":  # la racine n'y nomme que ses exports paresseux
            for child in node.body:
                _collect(child, module, at_import_time=False, found=found)
        for child in node.orelse:
            _collect(child, module, at_import_time=at_import_time, found=found)
        return
    found.extend(Import(t, node.lineno, at_import_time) for t in _targets(node, module))
    for child in ast.iter_child_nodes(node):
        _collect(child, module, at_import_time=at_import_time, found=found)


def _is_type_checking(test):
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _targets(node, module):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _resolve(node.module or "", node.level, module)
        # « from paquet import x » : x est peut-être un module, il compte avec son nom.
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        target = node.args[0].value
        if name in ("import_module", "__import__") and isinstance(target, str):
            stripped = target.lstrip(".")
            return [_resolve(stripped, len(target) - len(stripped), module)]
    return []


def _resolve(name, level, module):
    if level == 0:
        return name
    parts = module.split(".")  # un __init__ garde son nom : un niveau de moins, comme un module
    return ".".join([*parts[: len(parts) - level], *([name] if name else [])])


def _project_unit(target):
    """Unité importée ; un nom pris à la racine qui n'est pas un module vient de `__init__`."""
    unit = unit_of(target)
    if unit is None or unit in LEVEL or target.count(".") > 1:
        return unit
    is_module = (SOURCE / unit).is_dir() or (SOURCE / f"{unit}.py").is_file()
    return unit if is_module else "__init__"


def layer_violations(source, module):
    """Une phrase par import qui monte, croise un paquet voisin ou vise une couche inconnue."""
    here = unit_of(module)
    if here not in LEVEL:
        return [f"{module} : {here} n'est dans aucune couche"]
    violations = []
    for item in imports_of(source, module):
        there = _project_unit(item.target)
        if there is None or there == here:
            continue
        where = f"{module}:{item.line} importe {item.target}"
        if there not in LEVEL:
            violations.append(f"{where}, qui n'est dans aucune couche")
        elif LEVEL[there] > LEVEL[here]:
            violations.append(f"{where}, d'une couche plus haute")
        elif (
            LEVEL[there] == LEVEL[here]
            and LEVEL[here] not in SHARED_LEVELS
            and (here, there) not in NEIGHBOURS
        ):
            violations.append(f"{where}, de la même couche")
    return violations


def lazy_homes(root_source):
    """Table `_NAMES` de la racine, retournée : nom public → module qui le définit."""
    for node in ast.parse(root_source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_NAMES":
            names = ast.literal_eval(node.value)
            return {name: module for module, line in names.items() for name in line.split()}
    return {}


def through_root(target, homes):
    """`gpt_architecture.load` → `gpt_architecture.api` : le demander à la racine l'importe."""
    name = target.removeprefix(f"{PACKAGE}.")
    return f"{PACKAGE}.{homes[name]}" if name in homes else target


def eager_violations(source, module, homes):
    """Imports de PyTorch, ou d'un paquet qui l'apporte, exécutés dès l'import de `module`."""
    return [
        f"{module}:{item.line} importe {item.target} au chargement"
        for item in imports_of(source, module)
        if item.at_import_time
        and (
            item.target.split(".")[0] == "torch"
            or _project_unit(through_root(item.target, homes)) in LAZY_UNITS
        )
    ]


def import_graph(sources):
    """Module → modules du projet qu'il importe, imports tardifs et de types compris.

    La racine n'y est pas : ses noms paresseux mènent partout, et rien ne la lit que par eux.
    """
    graph = {}
    for module, source in sources.items():
        found = set()
        for node in ast.walk(parsed(source)):
            for target in _targets(node, module):
                parts = target.split(".")
                while parts and ".".join(parts) not in sources:
                    parts.pop()  # « from module import nom » : le module
                if len(parts) > 1:
                    found.add(".".join(parts))
        graph[module] = found - {module, f"{PACKAGE}.__init__"}
    return graph


def circles(graph):
    """Groupes de modules qui s'importent en rond (R. Tarjan, 1972)."""
    order, low, stack, found = {}, {}, [], []

    def visit(module):
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph.get(module, ()):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            group = set()
            while module not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in order:
            visit(module)
    return found


def undocumented_modules(package):
    """Modules et sous-paquets que la docstring d'un `__init__` ne nomme pas."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    inside = {path.stem for path in package.glob("*.py")} - {"__init__"}
    inside |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    named = set(re.findall(r"^- `([\w/]+)` : ", docstring or "", re.MULTILINE))
    return sorted(inside ^ named)


def foreign_private_uses(source, module):
    """Imports d'un nom ou d'un module privé (`_nom`) d'un autre paquet."""
    here = module.split(".")[1]
    return [
        f"{module}:{item.line} importe {item.target}"
        for item in imports_of(source, module)
        if unit_of(item.target) not in (None, here)
        and any(part[0] == "_" and part[:2] != "__" for part in item.target.split(".")[1:])
    ]


def dotted_uses(source):
    """Noms pointés lus dans `source`, alias d'import résolus : (nœud, nom complet)."""
    tree = parsed(source)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    aliases[alias.asname] = alias.name
                else:
                    root = alias.name.split(".")[0]
                    aliases[root] = root
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    uses = []
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            parts.append(aliases.get(inner.id, inner.id))
            uses.append((node, ".".join(reversed(parts))))
    return tree, uses


def unsafe_reads(source, module):
    """Lectures qui exécutent un objet venu d'un fichier."""
    tree, uses = dotted_uses(source)
    violations = [
        f"{module}:{item.line} importe {item.target}"
        for item in imports_of(source, module)
        if item.target in UNSAFE_READERS
    ]
    violations += [
        f"{module}:{node.lineno} utilise {name}" for node, name in uses if name in UNSAFE_READERS
    ]
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node, name in uses:
        required = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
        if name not in required or not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        key, value = required[name]
        call = calls.get(id(node))
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords} if call else {}
        # numpy.load refuse les pickles par défaut ; torch.load doit le dire, pour tout lecteur.
        if given.get(key, value if name == "numpy.load" and call else None) is not value:
            violations.append(f"{module}:{node.lineno} appelle {name} sans {key}={value}")
    return violations


def distributed_uses(source, module):
    """Usages de `torch.distributed`."""
    _, uses = dotted_uses(source)
    names = [(i.line, i.target) for i in imports_of(source, module)]
    names += [(node.lineno, name) for node, name in uses]
    return [
        f"{module}:{line} utilise {name}"
        for line, name in names
        if name == "torch.distributed" or name.startswith("torch.distributed.")
    ]


def reached_at_import(module, sources):
    """Modules externes chargés en important `module`, à travers ceux du projet."""
    homes = lazy_homes(sources[f"{PACKAGE}.__init__"])
    seen, external, queue = set(), set(), [module]
    while queue:
        current = queue.pop()
        parts = current.split(".")
        # Importer a.b.c exécute aussi a et a.b, c'est-à-dire leurs __init__.
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            for name in (prefix, f"{prefix}.__init__"):
                if name in sources and name not in seen:
                    seen.add(name)
                    for item in imports_of(sources[name], name):
                        if not item.at_import_time:
                            continue
                        if unit_of(item.target) is None:
                            external.add(item.target.split(".")[0])
                        else:
                            queue.append(through_root(item.target, homes))
    return external


# --- Le paquet -----------------------------------------------------------------------------

FILES = sorted(SOURCE.rglob("*.py"))
SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in FILES}
HOMES = lazy_homes(SOURCES[f"{PACKAGE}.__init__"])
ENTRIES = sorted(m for m in SOURCES if unit_of(m) in ("main", "scripts", "__init__", "__main__"))
each_module = pytest.mark.parametrize("module", sorted(SOURCES))


def test_the_package_is_found():
    assert {"gpt_architecture.errors", "gpt_architecture.core.model"} <= set(SOURCES)


@each_module
def test_imports_only_go_down(module):
    assert layer_violations(SOURCES[module], module) == []


def test_one_name_per_test_file():
    """Les tests s'importent par leur seul nom : deux fichiers du même se cacheraient."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert "conftest.py" in names
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_circle():
    assert circles(import_graph(SOURCES)) == []


@pytest.mark.parametrize(
    "package", sorted(p.parent for p in FILES if p.name == "__init__.py" and p.parent != SOURCE)
)
def test_each_package_says_what_is_inside(package):
    assert undocumented_modules(package) == []


@each_module
def test_private_names_stay_in_their_package(module):
    assert foreign_private_uses(SOURCES[module], module) == []


def test_scripts_hold_one_command_each():
    """Un fichier par commande, qui porte son nom, et rien d'autre."""
    names = {path.stem for path in (SOURCE / "scripts").glob("*.py")} - {"__init__"}
    assert names == set(COMMANDS)
    for name in names - set(SUBCOMMANDS):
        tree = ast.parse((SOURCE / "scripts" / f"{name}.py").read_text(encoding="utf-8"))
        public = [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        ]
        assert public == [name]


@each_module
def test_no_file_is_read_by_executing_it(module):
    assert unsafe_reads(SOURCES[module], module) == []


@pytest.mark.parametrize("module", sorted(m for m in SOURCES if unit_of(m) == "core"))
def test_core_ignores_distribution(module):
    assert distributed_uses(SOURCES[module], module) == []


@pytest.mark.parametrize("module", ENTRIES)
def test_entry_points_load_the_library_only_in_functions(module):
    assert eager_violations(SOURCES[module], module, HOMES) == []


@pytest.mark.parametrize("module", ENTRIES)
def test_entry_points_do_not_reach_torch_when_imported(module):
    assert "torch" not in reached_at_import(module, SOURCES)


def test_torch_is_reached_where_it_is_used():
    """Sans quoi le test précédent ne prouverait rien."""
    assert "torch" in reached_at_import(f"{PACKAGE}.api", SOURCES)
    assert "torch" in reached_at_import(f"{PACKAGE}.core.model", SOURCES)


@pytest.mark.process
def test_importing_the_package_leaves_torch_alone():
    code = f"import sys, {PACKAGE}; print('torch' in sys.modules, {PACKAGE}.__version__ != '')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "True"]


# --- Le vérificateur sait échouer ------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.model", "from gpt_architecture.decoding.simple import stream_tokens"),
        ("core.model", "import gpt_architecture.training.simple"),
        ("core.model", "import gpt_architecture.training.simple as s"),
        ("core.model", "def f():\n    from gpt_architecture.api import load"),
        ("core.model", "async def f():\n    class A:\n        import gpt_architecture.main"),
        ("core.model", "from gpt_architecture import load"),
        ("core.model", "from gpt_architecture import training"),
        ("core.model", "import gpt_architecture"),
        ("core.model", "from ..decoding import generator"),
        ("core.model", "from .. import serving"),
        ("core.__init__", "from ..decoding import generator"),
        (
            "core.model",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..api import G",
        ),
        ("core.model", "import typing\nif typing.TYPE_CHECKING:\n    import gpt_architecture.api"),
        ("core.model", "try:\n    pass\nexcept E:\n    from gpt_architecture.kernels import k"),
        ("core.model", "import_module('gpt_architecture.decoding')"),
        ("core.model", "importlib.import_module('..decoding', __package__)"),
        ("core.model", "x = lambda: __import__('gpt_architecture.training')"),
        ("core.model", "from gpt_architecture.data.tokenizer import get_tokenizer"),
        ("data.corpus", "from gpt_architecture.core import utils"),
        ("decoding.generator", "from gpt_architecture.kernels import packed"),
        ("decoding.generator", "from gpt_architecture.interop.hf import read"),
        ("training.simple", "from gpt_architecture.evaluation import comparison"),
        ("serving.app", "from gpt_architecture.training.simple import evaluate_model"),
        ("errors", "from gpt_architecture.core.model import GPTModel"),
        ("core.model", "from gpt_architecture.inconnu.module import x"),
        ("utils2", "import math"),
        ("training.simple", "from gpt_architecture.scripts.train import main"),
    ],
)
def test_layer_checker_refuses(module, source):
    assert layer_violations(source, f"{PACKAGE}.{module}") != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.model", "from gpt_architecture.config import GPTConfig\nimport torch, math"),
        ("core.model", "from gpt_architecture import config, errors"),
        (
            "core.model",
            "from .layers import LayerNorm\nfrom . import attention\nfrom .. import errors",
        ),
        ("core.__init__", "from .model import GPTModel"),
        ("config", "from gpt_architecture.errors import ConfigurationError"),
        ("decoding.generator", "from gpt_architecture.core.model import CausalLM"),
        (
            "scripts.train",
            "from gpt_architecture.main import app\nfrom gpt_architecture import load",
        ),
        ("api", "from gpt_architecture.serving.app import x\nfrom gpt_architecture.core import y"),
        ("core.model", "from gpt_architecture_autre.api import load"),
        ("core.model", "import_module('torch')\nimport_module(name)"),
    ],
)
def test_layer_checker_accepts(module, source):
    assert layer_violations(source, f"{PACKAGE}.{module}") == []


def test_circle_checker():
    sources = {
        f"{PACKAGE}.a": "def f():\n    from gpt_architecture.b import x",
        f"{PACKAGE}.b": "from gpt_architecture import c",
        f"{PACKAGE}.c": "if TYPE_CHECKING:\n    from gpt_architecture.a import y",
        f"{PACKAGE}.d": "import gpt_architecture.a",
    }
    assert circles(import_graph(sources)) == [[f"{PACKAGE}.{name}" for name in "abc"]]
    sources[f"{PACKAGE}.c"] = "import math"
    assert circles(import_graph(sources)) == []


def test_private_name_checker():
    module = f"{PACKAGE}.training.trainer"
    assert foreign_private_uses("from gpt_architecture.core._secret import x", module) != []
    assert foreign_private_uses("from gpt_architecture.core.model import _x", module) != []
    assert foreign_private_uses("from gpt_architecture.training import _x", module) == []
    assert foreign_private_uses("from gpt_architecture import __version__", module) == []


def test_inside_checker(tmp_path):
    (tmp_path / "model.py").touch()
    (tmp_path / "__init__.py").write_text('"""Titre.\n\n- `model` : le modèle.\n"""')
    assert undocumented_modules(tmp_path) == []
    (tmp_path / "autre.py").touch()
    assert undocumented_modules(tmp_path) == ["autre"]


def test_type_checking_imports_are_free_only_in_the_root():
    source = "if TYPE_CHECKING:\n    from gpt_architecture.nulle_part.x import y"
    assert layer_violations(source, f"{PACKAGE}.__init__") == []
    assert layer_violations(source, f"{PACKAGE}.api") != []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch import Tensor",
        "if x:\n    import torch",
        "try:\n    import torch\nexcept ImportError:\n    torch = None",
        "class A:\n    import torch",
        "with a:\n    from gpt_architecture.core.model import GPTModel",
        "from gpt_architecture.api import load",
        "from gpt_architecture import api",
        "from gpt_architecture import load",
        "from gpt_architecture import __version__, get_tokenizer",
        "from ..training.simple import train_model_simple",
        "from ..decoding import sampling",
        "import gpt_architecture.evaluation.comparison",
        "torch = importlib.import_module('torch')",
        "def f(x=__import__('torch')):\n    pass",
    ],
)
def test_eager_checker_refuses(source):
    assert eager_violations(source, f"{PACKAGE}.scripts.train", HOMES) != []


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import torch\n    from gpt_architecture.api import load",
        "class A:\n    def f(self):\n        from ..core.model import GPTModel",
        "if TYPE_CHECKING:\n    import torch",
        "from gpt_architecture.config import GPTConfig\nfrom ..errors import DataError",
        "from . import common\nimport torchlight",
        "from gpt_architecture import GPTConfig, __version__",
        "load = lambda: __import__('torch')",
    ],
)
def test_eager_checker_accepts(source):
    assert eager_violations(source, f"{PACKAGE}.scripts.train", HOMES) == []


def test_reachability_crosses_modules_and_packages():
    sources = {
        f"{PACKAGE}.__init__": "",
        f"{PACKAGE}.main": "from gpt_architecture.scripts import train",
        f"{PACKAGE}.scripts.__init__": "",
        f"{PACKAGE}.scripts.train": "from gpt_architecture.config import X",
        f"{PACKAGE}.config": "import math\ndef f():\n    import torch",
    }
    main = f"{PACKAGE}.main"
    assert reached_at_import(main, sources) == {"math"}
    sources[f"{PACKAGE}.config"] = "from torch import nn"
    assert reached_at_import(main, sources) == {"torch"}
    sources[f"{PACKAGE}.config"] = ""
    sources[f"{PACKAGE}.scripts.__init__"] = "import torch"
    assert reached_at_import(main, sources) == {"torch"}
    sources[f"{PACKAGE}.scripts.__init__"] = "from gpt_architecture import load"
    sources[f"{PACKAGE}.__init__"] = "_NAMES = {'api': 'GPT load'}"
    sources[f"{PACKAGE}.api"] = "from torch import nn"
    assert reached_at_import(main, sources) == {"torch"}


def test_lazy_names_are_found():
    assert HOMES["load"] == "api"
    assert HOMES["GPTModel"] == "core.model"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import load",
        "from pickle import Unpickler as U",
        "import pickle\nclass U(pickle.Unpickler): ...",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "import torch\ntorch.load(p, **options)",
        "import torch as t\nt.load(p, map_location='cpu')",
        "from torch import load\nload(p)",
        "from torch import load as read\nread(p, weights_only=0)",
        "import torch\nread = functools.partial(torch.load, weights_only=True)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import joblib\njoblib.load(p)",
    ],
)
def test_unsafe_read_checker_refuses(source):
    assert unsafe_reads(source, f"{PACKAGE}.core.weights") != []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
        "from torch import load\nload(p, weights_only=True)",
        "import json\njson.load(f)\nmodel.eval()",
        "import numpy as np\nnp.load(p)",
        "from gpt_architecture import load\nload(p)",
    ],
)
def test_unsafe_read_checker_accepts(source):
    assert unsafe_reads(source, f"{PACKAGE}.core.weights") == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.distributed as dist", True),
        ("from torch import distributed", True),
        ("from torch.distributed import init_process_group", True),
        ("def f():\n    import torch\n    torch.distributed.barrier()", True),
        ("from torch.utils.data import distributed", False),
        ("import torch\ntorch.distributions.Normal(0, 1)", False),
    ],
)
def test_distribution_checker(source, found):
    assert bool(distributed_uses(source, f"{PACKAGE}.core.model")) is found
