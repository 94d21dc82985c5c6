"""Les épreuves de lm-eval (Gao et al., 2021) : les nôtres, locales et françaises, et les siennes.

Les nôtres sont des données du paquet : rien n'est téléchargé. Celles de lm-eval vont chercher
leurs données sur le hub, sauf si c'est interdit ou qu'elles sont en cache.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from io import StringIO
from typing import Any

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import (
    DataError,
    GPTArchitectureError,
    MissingDependencyError,
    reason,
)
from gpt_architecture.evaluation.harness import HarnessModel
from gpt_architecture.evaluation.likelihood import ALONE, MAX_ROWS, Crew

LOCAL_TASKS = ("dernier_mot_fr", "paires_fr", "prose_fr", "serie_fr", "suite_fr")
"""Nos épreuves, par leur nom."""

UNITS = {"générations": "textes"}
"""Ce que compte l'avancement d'une nature de requêtes, quand ce ne sont pas des tokens."""


_BOOTSTRAP = 1000
_FEWSHOT_SEED = 1234  # celle de lm-eval
_NUMBER_KINDS = (int, float)


@dataclass(frozen=True, kw_only=True)
class TaskMetric:
    """Une mesure d'une épreuve.

    Attributes:
        name: son nom chez lm-eval (« acc », « bits_per_byte »).
        filter: filtre des réponses ; « none » : aucun.
        value: sa valeur.
        stderr: son erreur type ; None : lm-eval n'en donne pas.
    """

    name: str
    filter: str
    value: float
    stderr: float | None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Une épreuve passée.

    Attributes:
        name: son nom.
        version: celle de l'épreuve.
        count: exemples mesurés ; None pour un groupe d'épreuves.
        metrics: ses mesures.
    """

    name: str
    version: str
    count: int | None
    metrics: tuple[TaskMetric, ...]


def run_tasks(
    names: Sequence[str],
    model: CausalLM,
    tokenizer: Tokenizer,
    *,
    window: int,
    limit: int | None = None,
    offline: bool = False,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[str, int, int], None] | None = None,
    crew: Crew = ALONE,
) -> list[TaskResult]:
    """Passe des épreuves avec lm-eval.

    Args:
        names: les nôtres (`LOCAL_TASKS`) ou celles de lm-eval.
        limit: exemples de chaque épreuve, les premiers ; None : tous.
        offline: interdit tout téléchargement.
        max_rows: voir `HarnessModel`, comme `window`, `on_progress` et `crew`.

    Raises:
        MissingDependencyError: lm-eval n'est pas installé.
        DataError: épreuve inconnue, ou dont les données manquent.
    """
    stderr = sys.stderr

    def report(kind: str, done: int, total: int) -> None:
        if on_progress is not None:
            with redirect_stderr(stderr):  # seul lm-eval se tait
                on_progress(kind, done, total)

    with _harness(offline=offline):
        from lm_eval.api.model import LM

        class Adapted(HarnessModel, LM):  # type: ignore[misc]  # lm-eval n'est pas typé
            pass

        lm = Adapted(
            model, tokenizer, window=window, max_rows=max_rows, on_progress=report, crew=crew
        )
        return evaluate_harness(lm, names, limit=limit)


def evaluate_harness(
    lm: Any, names: Sequence[str], *, limit: int | None = None
) -> list[TaskResult]:
    """Passe des épreuves avec n'importe quel modèle de lm-eval ; voir `run_tasks`."""
    with _harness():
        from lm_eval.evaluator import evaluate

        tasks = _load_tasks(names)
        found = evaluate(lm, tasks, limit=limit, bootstrap_iters=_BOOTSTRAP, log_samples=False)
    return [_result(name, found) for name in found["results"]]


def _load_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Les épreuves, prêtes pour `lm_eval.evaluator.evaluate`.

    Raises:
        DataError: épreuve inconnue, ou dont les données manquent.
    """
    foreign = [name for name in names if name not in LOCAL_TASKS]
    manager = _manager(include_defaults=bool(foreign))
    specs = [_local_task(name) if name in LOCAL_TASKS else name for name in names]
    unknown = [name for name in foreign if name not in manager.all_tasks]
    if unknown:
        raise DataError(
            f"épreuve inconnue : {unknown[0][:200]}",
            expected=f"{', '.join(LOCAL_TASKS)}, ou une épreuve de lm-eval",
            remedy="corrigez `lm_eval`",
        )
    try:
        loaded: dict[str, Any] = manager.load(specs)
    except GPTArchitectureError:
        raise
    except Exception as error:  # réseau, hub et formats : chaque bibliothèque a les siennes
        raise DataError(
            f"les données de {', '.join(foreign)} manquent : {reason(error)[:200]}",
            expected="des données en cache, ou un accès au hub",
            remedy=f"prenez une épreuve locale : {', '.join(LOCAL_TASKS)}",
        ) from None
    for task in loaded["tasks"].values():  # ce que simple_evaluate ferait
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    return loaded


@cache
def _manager(*, include_defaults: bool) -> Any:
    """Le répertoire des épreuves ; lm-eval met des dizaines de secondes à lire les siennes."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=include_defaults)


def _local_task(name: str) -> dict[str, Any]:
    """La configuration d'une de nos épreuves, et ses exemples déjà lus."""
    import yaml  # vient avec lm-eval
    from datasets import Dataset

    folder = local_folder()
    config: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    del config["dataset_path"]
    files: Mapping[str, str] = config.pop("dataset_kwargs")["data_files"]
    splits = {
        split: [json.loads(line) for line in (folder / file).read_text("utf-8").splitlines()]
        for split, file in files.items()
    }
    config["custom_dataset"] = lambda **_metadata: {
        split: Dataset.from_list(rows) for split, rows in splits.items()
    }
    return config


def local_folder() -> Traversable:
    """Le dossier de nos épreuves, que lm-eval sait aussi lire (`--include_path`)."""
    return resources.files("gpt_architecture.evaluation").joinpath("lm_eval_tasks")


def _result(name: str, found: Mapping[str, Any]) -> TaskResult:
    """Les mesures d'une épreuve, hors du dictionnaire plat de lm-eval (« acc,none »)."""
    row = found["results"][name]
    metrics = []
    for key, value in row.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, _NUMBER_KINDS):
            continue
        stderr = row.get(f"{metric}_stderr,{chosen}")
        usable = isinstance(stderr, _NUMBER_KINDS) and math.isfinite(stderr)
        metrics.append(
            TaskMetric(
                name=metric,
                filter=chosen,
                value=float(value),
                stderr=float(stderr) if usable else None,
            )
        )
    count = found.get("n-samples", {}).get(name, {}).get("effective")
    version = str(found.get("versions", {}).get(name, ""))
    return TaskResult(name=name, version=version, count=count, metrics=tuple(metrics))


@contextmanager
def _harness(*, offline: bool = False) -> Iterator[None]:
    """Fait taire lm-eval et ce qu'il apporte, et rend l'environnement.

    Ses barres, ses impressions et ses avertissements ne sont pas ceux du projet ; ses intervalles
    sont calculés dans ce processus, et non dans une réserve d'autres.

    Raises:
        MissingDependencyError: lm-eval n'est pas installé.
    """
    settings = {"DISABLE_MULTIPROC": "1"}
    if offline:
        settings |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in settings}
    logger = logging.getLogger("lm_eval")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            try:
                import lm_eval.evaluator  # noqa: F401 — facultatif
            except ImportError:
                raise MissingDependencyError("lm-eval", purpose="ses épreuves") from None
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
