"""Un oubli mené au bout : refait dans un dossier à part, puis mis à la place de l'ancien.

Rien de l'ancien n'est effacé avant que le nouveau soit entier. Un arrêt, à tout moment, se
rattrape : l'oubli relancé reprend l'entraînement, ou achève la mise en place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from gpt_architecture.data.removal import REMOVAL_NAME, read_removal, removal_history
from gpt_architecture.data.tokenizers.marked_text import keep_prompt
from gpt_architecture.errors import ConfigurationError, OutputError
from gpt_architecture.formats.adapter_file import ADAPTER_NAME, read_adapter, save_adapter
from gpt_architecture.formats.checkpoint import BEST
from gpt_architecture.formats.journal import JOURNAL, record_of
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.storage import read_json, sync, write_atomically
from gpt_architecture.storage.chain import CERTIFICATE, Chain, Signer
from gpt_architecture.training.arithmetic import same_threads
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
from gpt_architecture.training.forgetting import ASIDE, WORK, ForgetPlan, without_best
from gpt_architecture.training.outputs import PLOT_NAME, from_folder
from gpt_architecture.training.run import Outcome, TrainingReporter, train_model

_READY = "pret.json"
_MAX_READY = 1 << 20


def carry_out(
    plan: ForgetPlan,
    reporter: TrainingReporter | None = None,
    *,
    keep_old: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Refait l'entraînement sans ce qui est retiré, puis met le résultat à sa place.

    Args:
        plan: l'oubli, qui a de quoi refaire.
        reporter: qui le raconte.
        keep_old: garde l'ancien dans `ASIDE`, ou à côté s'il y en a un d'un autre oubli.
        should_stop: voir `train_model` ; arrêté, l'oubli reprendra où il en est.

    Returns:
        L'issue de l'entraînement ; sans modèle : il a été arrêté, et rien n'est changé.

    Raises:
        ConfigurationError: un autre oubli est en cours dans ce dossier.
        GPTArchitectureError: voir `train_model`.
    """
    work, origins, store = plan.run.output_dir, plan.run.origins, plan.audit.store
    with ExitStack() as stack:
        _begin(plan, stack)
        origins.checkpoint = plan.run.store.latest()
        if origins.checkpoint is None:
            origins.checkpoint = plan.checkpoint
            origins.chain = Chain(
                links=list(plan.audit.chain.links), signature=plan.audit.chain.signature
            )
            if plan.checkpoint is not None and (plan.folder / JOURNAL).is_file():
                _copy_journal(plan)
        with same_threads(plan.threads):
            outcome = train_model(plan.run, reporter, should_stop=should_stop)
        if outcome.model is None:
            return outcome
        _rebase(work / plan.product.name, plan.folder)
        kept = {step for step in plan.audit.kept if step <= plan.restart}
        if plan.reworded:  # leur invite en dirait les premiers mots
            kept = set()
        erased = sorted(set(store.steps()) - kept)
        files = [plan.run.path.name, CERTIFICATE, JOURNAL, PLOT_NAME, REMOVAL_NAME]
        _mark(work, {"erased": erased, "files": files, "aside": _aside(plan, keep_old)})
        if plan.measured_val or store.best_step() not in kept:
            (store.root / BEST).unlink(missing_ok=True)
        publish(plan.folder, store)
    return outcome


def take_note(plan: ForgetPlan, *, keep_old: bool = False) -> None:
    """Note un retrait que nulle étape n'a lu : les poids restent, et toute reprise l'applique.

    Le modèle, le certificat et le dernier point de reprise le disent. Si les premiers mots en
    étaient, l'invite change partout, et les points de reprise d'avant sont effacés.

    Args:
        plan: l'oubli, dont rien n'est à refaire.
        keep_old: voir `carry_out`.

    Raises:
        ConfigurationError: un autre oubli est en cours dans ce dossier, ou la clé ne convient pas.
        OutputError: le disque refuse.
    """
    run, work, store = plan.run, plan.run.output_dir, plan.audit.store
    key = run.request.run.sign_key
    signer = None if key is None else Signer(key)
    identity = run.settings.identity(run.data)
    prompt = keep_prompt(run.settings.prompt, run.data.tokenizer)
    with ExitStack() as stack:
        _begin(plan, stack)
        _save_product(plan.product, work / plan.product.name, {**identity, **prompt})
        links = Chain(links=list(plan.audit.chain.links), signature=plan.audit.chain.signature)
        end = {name: links.links[-1][name] for name in ("step", "weights")}
        links.add("removal", removal=plan.removal.to_dict(), identity=identity, **end)
        links.add("end", **end)
        links.save(work / CERTIFICATE, signer)
        if (plan.folder / JOURNAL).is_file():
            _copy_journal(plan)
        made, kept = CheckpointStore(work / CHECKPOINTS), plan.audit.kept
        for step in sorted(kept)[-1:]:
            state = {**kept[step].state, **prompt, "identity": identity}
            state["options"] = {**state["options"], "forget": str(run.request.run.forget)}
            state = without_best(state) if plan.measured_val else state
            made.save(step, {n: kept[step].tensors(n) for n in kept[step].names}, state)
        erased = store.steps() if plan.reworded else made.steps()
        files = [plan.product.name, CERTIFICATE, JOURNAL, REMOVAL_NAME]
        _mark(work, {"erased": erased, "files": files, "aside": _aside(plan, keep_old)})
        if plan.measured_val or store.best_step() in set(erased) - set(made.steps()):
            (store.root / BEST).unlink(missing_ok=True)
        publish(plan.folder, store)


def _begin(plan: ForgetPlan, stack: ExitStack) -> None:
    """Prend le dossier, et y prépare le retrait."""
    work, store = plan.run.output_dir, plan.audit.store
    history = removal_history(plan.folder / REMOVAL_NAME)
    stack.enter_context(store.lock())
    stack.callback(store.remove_if_empty)
    _check_same_work(work, plan)
    work.mkdir(exist_ok=True)
    said: dict[str, Any] = {
        "tokens": plan.tokens,
        "val_tokens": plan.val_tokens,
        "step": plan.restart,
    }
    said |= {"date": datetime.now(UTC).date().isoformat(), "sha256": plan.removal.sha256}
    plan.removal.save(work / REMOVAL_NAME, [*history, said])


def _copy_journal(plan: ForgetPlan) -> None:
    """Le journal d'avant, sans ses exemples s'ils commencent par des mots retirés."""
    lines = (plan.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    if plan.reworded:
        lines = [each for each in lines if (record_of(each) or {}).get("kind") != "sample"]
    text = b"".join(lines)
    write_atomically(plan.run.output_dir / JOURNAL, lambda temporary: temporary.write_bytes(text))


def _save_product(product: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Les mêmes poids, qui disent d'eux autre chose."""
    if product.name == ADAPTER_NAME:
        adapter = read_adapter(product)
        save_adapter(path, replace(adapter, metadata={**adapter.metadata, **metadata}))
        return
    content = read_model(product)
    save_model(
        path,
        content.build(),
        content.config,
        tokenizer=content.tokenizer,
        metadata={**content.metadata, **metadata},
    )


def _aside(plan: ForgetPlan, keep_old: bool) -> str | None:
    """Le dossier, qui n'existe pas encore, où garder l'ancien ; None : il ne l'est pas."""
    names = chain([ASIDE], (f"{ASIDE}-{number}" for number in count(2)))
    return next(n for n in names if not (plan.folder / n).exists()) if keep_old else None


def is_ready(folder: Path | str) -> bool:
    """Vrai si un oubli est fini, et n'est qu'à mettre en place (voir `publish`)."""
    return (Path(folder) / WORK / _READY).is_file()


def publish(folder: Path | str, store: CheckpointStore | None = None) -> None:
    """Met un oubli fini à la place de l'ancien ; interrompu, se relance.

    Args:
        folder: dossier de l'entraînement.
        store: ses points de reprise, si leur verrou est déjà tenu.

    Raises:
        OutputError: le disque refuse.
    """
    folder = Path(folder)
    work = folder / WORK
    store = CheckpointStore(folder / CHECKPOINTS) if store is None else store
    made = CheckpointStore(work / CHECKPOINTS)
    ready = _read_mark(work)
    aside = None if ready["aside"] is None else folder / ready["aside"]
    try:
        with store.lock():
            for step in ready["erased"]:
                if aside is not None:
                    _set_aside(store.path_of(step), aside / CHECKPOINTS)
                store.erase(step)
            ready["erased"] = []  # ce qui prendra ces noms est neuf
            _mark(work, ready)
            for step in made.steps():
                made.path_of(step).rename(store.path_of(step))
            if (made.root / BEST).is_file():
                (made.root / BEST).replace(store.root / BEST)
            for name in ready["files"]:
                if (work / name).is_file():
                    if aside is not None:
                        _set_aside(folder / name, aside)
                    (work / name).replace(folder / name)
            sync(store.root)
            sync(folder)
            shutil.rmtree(work)
            store.remove_if_empty()
    except OSError as error:
        raise OutputError.refused(folder, error) from error


def _check_same_work(work: Path, plan: ForgetPlan) -> None:
    """Refuse de continuer un oubli d'autre chose.

    Raises:
        ConfigurationError: un autre est en cours.
    """
    if not (work / REMOVAL_NAME).exists():
        return
    if read_removal(work / REMOVAL_NAME) != plan.removal:
        raise ConfigurationError(
            f"un oubli d'autre chose est en cours dans {work}",
            expected="le même, pour qu'il reprenne",
            remedy="relancez-le tel quel, ou effacez ce dossier pour y renoncer",
        )


def _rebase(product: Path, folder: Path) -> None:
    """Le chemin du modèle de départ, dans des adaptateurs, depuis là où ils iront."""
    if product.name != ADAPTER_NAME:
        return
    adapter = read_adapter(product)
    start = None if adapter.base_path is None else product.parent / adapter.base_path
    if start is not None and start.exists():
        save_adapter(product, replace(adapter, base_path=from_folder(folder, str(start))))


def _set_aside(path: Path, folder: Path) -> None:
    """Garde une copie de l'ancien, la première."""
    kept = folder / path.name
    if not path.exists() or kept.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        temporary = folder / f"{path.name}.incomplete"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(path, temporary)
        temporary.rename(kept)
    else:
        write_atomically(kept, lambda temporary: shutil.copyfile(path, temporary))


def _mark(work: Path, ready: Mapping[str, Any]) -> None:
    text = json.dumps(ready)
    write_atomically(work / _READY, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read_mark(work: Path) -> dict[str, Any]:
    try:
        found = read_json(work / _READY, _MAX_READY)
        names = [str(each) for each in found["files"]]
        aside = None if found["aside"] is None else str(found["aside"])
        if any(each != Path(each).name for each in (*names, aside or "x")):
            raise ValueError
        return {
            "erased": [int(each) for each in found["erased"]],
            "files": names,
            "aside": aside,
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{work / _READY} est illisible",
            expected="ce qu'un oubli fini y écrit",
            remedy=f"effacez {work} pour recommencer cet oubli",
        ) from None
