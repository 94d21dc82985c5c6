"""Le moteur d'un modèle, et ce que le service en dit : ses empreintes, ses adaptateurs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.identity import identity_of
from gpt_architecture.api.loading import content_of, load, runner_of
from gpt_architecture.config import VERSION, LoRAConfig, LoRATarget, check_float
from gpt_architecture.core.adapters import Adapter, follow_adapters_
from gpt_architecture.core.lora import adapter_parameters
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizers.marked_text import own_prompt
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import ConfigurationError, ModelFileError, ServiceError
from gpt_architecture.evaluation.comparison import SIX_VARIANTS
from gpt_architecture.evaluation.embeddings import embed
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.door import open_model
from gpt_architecture.formats.own_formats import read_adapters
from gpt_architecture.storage.chain import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpt_architecture.api.sources import SourceIndex
    from gpt_architecture.serving.context import ServingContext
    from gpt_architecture.serving.engine.engine import Engine
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy
    from gpt_architecture.serving.pool import ModelPool

logger = logging.getLogger(__name__)

MAX_ADAPTERS, MAX_ADAPTER_RANK = 16, 64
"""Adaptateurs en mémoire, et rang de chacun, au plus, sans autre demande."""

_OCTETS: Mapping[str | None, float] = {None: 4.0, "int8": 1.07, "int4": 0.75}
"""Octets d'un poids, échelles comprises ; sur 4 bits, la tête en a 8."""

_EXAMPLE = "Il était une fois"
_EVERYWHERE = LoRAConfig(rank=1, targets=get_args(LoRATarget))


def start_engine(
    model: GPT | Path | str,
    *,
    name: str,
    limits: Limits,
    fields: FieldPolicy,
    slots: int = 8,
    max_waiting: int = 64,
    drafts: int = MAX_SELF_DRAFT,
    run_directory: Path | str | None = None,
    index: SourceIndex | Path | str | None = None,
    device: str = "auto",
    quant: str | None = None,
    sign_key: Path | str | None = None,
    adapters: Mapping[str, Path | str] | None = None,
    adapters_dir: Path | str | None = None,
    max_adapters: int = MAX_ADAPTERS,
    max_adapter_rank: int = MAX_ADAPTER_RANK,
    taken: Iterable[str] = (),
) -> tuple[Engine, ServingContext]:
    """Le moteur d'un modèle, démarré, et ce que l'application en sert.

    Args:
        model: le modèle, ou son fichier.
        name: nom du modèle pour les clients.
        limits: ce qu'une requête peut demander.
        fields: ce qui est fait des champs inconnus.
        slots: textes générés ensemble.
        max_waiting: textes qui attendent, au plus.
        drafts: tokens proposés d'avance, à faible charge.
        run_directory: dossier d'entraînement que le studio montre.
        index: index des données d'entraînement, ou son dossier ; None : aucun.
        device: voir `load`.
        quant: voir `load`.
        sign_key: clé privée Ed25519 qui signe les reçus ; None : aucune.
        adapters: adaptateurs qu'une requête peut demander, par nom.
        adapters_dir: dossier où une requête peut en prendre d'autres ; None : aucun.
        max_adapters: adaptateurs en mémoire, au plus.
        max_adapter_rank: rang de chacun, au plus.
        taken: noms que portent les autres modèles du service.

    Raises:
        ConfigurationError: réglage ou nom d'adaptateur impossible.
        ModelFileError: modèle ou adaptateur illisible, ou adaptateur d'un autre modèle.
    """
    from gpt_architecture.serving.adapters import AdapterShelf
    from gpt_architecture.serving.context import ServingContext, digest_of
    from gpt_architecture.serving.engine.engine import Engine

    signer = None if sign_key is None else Signer(sign_key)
    hashing, digest = ThreadPoolExecutor(1), None  # les empreintes, pendant que le reste se charge
    # Seuls les noyaux rendent les mêmes bits sous toute charge : un petit modèle les a aussi.
    if isinstance(model, GPT):
        gpt, runner = model, model.runner
        if runner is None and isinstance(model.model, GPTModel):
            runner = runner_of(model.model, model.device, None, "auto")
    else:
        digest = hashing.submit(digest_of, model)
        try:
            gpt = load(model, device=device, quant=quant, compile_from=0)
        except BaseException:
            hashing.shutdown(wait=False)
            raise
        runner = gpt.runner
    runner = gpt.model if runner is None else runner
    plain = gpt.model if isinstance(gpt.model, GPTModel) and gpt.quant is None else None
    identity = hashing.submit(identity_of, gpt, runner)
    hashing.shutdown(wait=False)
    shelf = None
    if adapters or adapters_dir is not None:
        shelf = AdapterShelf(
            partial(read_beside, gpt, cache(partial(_base_sha256, gpt))),
            rank_bytes=4 * adapter_parameters(gpt.config, _EVERYWHERE),
            taken=(name, *taken),
            folder=adapters_dir,
            most=max_adapters,
            most_rank=max_adapter_rank,
        )
        for own_name, path in (adapters or {}).items():
            shelf.add(own_name, path)
        if isinstance(runner, GPTModel):
            follow_adapters_(runner)
    sources = None
    if index is not None:
        from gpt_architecture.api.sources import open_index

        sources = open_index(index, gpt.tokenizer)
    engine = Engine(
        runner,
        gpt.tokenizer,
        window=gpt.window,
        slots=slots,
        max_waiting=max_waiting,
        drafts=drafts,
    )
    engine.start()
    try:
        engine.prepare_constraints()
        found = None if digest is None else digest.result()
    except BaseException:
        engine.stop()
        raise
    context = ServingContext(
        engine=engine,
        model=runner,
        tokenizer=gpt.tokenizer,
        name=name,
        metadata=gpt.metadata,
        window=gpt.window,
        limits=limits,
        fields=fields,
        run_directory=None if run_directory is None else Path(run_directory),
        index=sources,
        example=own_prompt(gpt.metadata) or _EXAMPLE,
        network=plain,
        embed=None if plain is None else partial(embed, plain, window=gpt.window),
        variants=tuple(SIX_VARIANTS),
        digest=found,
        card=gpt.card,
        identity=identity,
        signer=signer,
        shelf=shelf,
        version=VERSION,
    )
    return engine, context


def other_models(
    models: Mapping[str, Path | str] | None,
    name: str,
    first: GPT | Path | str,
    *,
    max_memory: float | None = None,
    **options: Any,
) -> ModelPool | None:
    """Les autres modèles d'un service, chargés à la première demande ; None : il n'y en a pas.

    Args:
        models: leurs fichiers, par nom.
        name: le nom du modèle toujours chargé.
        first: ce modèle.
        max_memory: milliards d'octets au plus, lui compris ; None : pas de borne.
        options: celles de `start_engine`, sauf celles d'un seul modèle.

    Raises:
        ConfigurationError: deux noms pareils, ou un modèle qui ne tiendrait jamais dans la borne.
    """
    if not models:
        return None
    if name in models:
        raise ConfigurationError(
            f"deux modèles se nomment « {name} »",
            expected="un nom pour chacun",
            remedy="changez l'un des deux",
        )
    from gpt_architecture.serving.pool import Lodger, ModelPool

    if max_memory is not None:
        check_float("`max_memory`", max_memory, above=0.0)
    measured = {name: options[name] for name in ("slots", "drafts", "quant") if name in options}

    def load(name: str) -> ServingContext:
        engine, context = start_engine(models[name], name=name, **options)
        engine.wait_started()
        if engine.state != "ready":
            engine.stop()
            raise ServiceError(
                "le premier passage du modèle a échoué",
                expected="un modèle qui calcule",
                remedy="essayez-le par « gpt-architecture infer »",
            )
        return context

    def measure(name: str) -> Lodger:
        size, window = serving_bytes(models[name], **measured)
        return Lodger(size=size, window=window)

    limit = None if max_memory is None else int(max_memory * 1e9)
    resident = 0 if limit is None else serving_bytes(first, **measured)[0]
    return ModelPool(
        models,
        measure,
        load,
        mark=lambda name: file_mark(models[name]),
        resident=resident,
        limit=limit,
    )


def file_mark(path: Path | str) -> tuple[tuple[str, int, int], ...]:
    """Ce à quoi se voit qu'un modèle a changé : nom, octets et date de chacun de ses fichiers.

    Rien, s'il n'y est pas ; d'un dossier, un seul niveau est regardé.
    """
    path = Path(path)
    try:
        stats = {each.name: each.stat() for each in (path, *sorted(path.glob("*")))}
    except OSError:
        return ()
    return tuple((name, each.st_size, each.st_mtime_ns) for name, each in stats.items())


def serving_bytes(
    model: GPT | Path | str,
    *,
    slots: int = 8,
    drafts: int = MAX_SELF_DRAFT,
    quant: str | None = None,
) -> tuple[int, int]:
    """Octets qu'un modèle prend une fois servi, et positions de son contexte, sans le charger.

    Ses poids tels qu'ils calculent, la copie qui propose, et les clés et valeurs de tous les
    emplacements. Un fichier projeté en mémoire n'y est pas : le système en reprend les pages.

    Raises:
        ModelFileError: il ne dit pas sa forme.
    """
    if isinstance(model, GPT):
        config, stored, quant, metadata = model.config, None, model.quant, model.metadata
    else:
        opened = open_model(model)
        shape = opened.config
        if shape is None:
            raise ModelFileError(
                f"{model} ne dit pas sa forme",
                expected="un modèle qui se charge",
                remedy="convertissez-le d'abord (convert)",
            )
        config, metadata = shape, opened.metadata
        stored = opened.path.stat().st_size if opened.kind == "quantized" else None
    if stored is None:
        octets = _OCTETS[quant] + (_OCTETS["int8"] if quant is None and drafts else 0.0)
        stored = int(octets * config.num_parameters())
    learned, window = metadata.get("window"), config.context_length
    window = min(learned, window) if isinstance(learned, int) and learned > 0 else window
    rows = slots + 4096 // window  # ceux que le moteur garde en plus
    return stored + 8 * config.n_layers * config.emb_dim * window * rows, window


def read_beside(
    gpt: GPT, base_sha256: Callable[[], str | None], path: Path | str
) -> tuple[Adapter, Mapping[str, Any]]:
    """L'adaptateur d'un fichier, pour un modèle déjà chargé, et ses métadonnées.

    Args:
        gpt: le modèle.
        base_sha256: donne l'empreinte de ses poids ; None : un modèle quantifié n'en a plus.
        path: le fichier d'adaptateurs, ou leur dossier.

    Raises:
        ModelFileError: ce n'en est pas un, ou pas un de ce modèle.
    """
    found = read_adapters(path)
    known = None if found.base_sha256 is None else base_sha256()
    if known is None:
        logger.warning(
            "%s : rien ne dit que ce modèle est celui de départ ; seules les formes sont vérifiées",
            path,
        )
    return found.beside(gpt.config, known, device=gpt.device), found.metadata


def _base_sha256(gpt: GPT) -> str | None:
    """L'empreinte des poids dont des adaptateurs disent partir."""
    return weights_sha256(content_of(gpt)) if isinstance(gpt.model, GPTModel) else None
