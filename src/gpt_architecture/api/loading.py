"""Charger un modèle, d'ici ou d'ailleurs, et choisir ce qui le fait calculer."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Literal

import torch

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.options import checked_options
from gpt_architecture.config import check_choice, check_int
from gpt_architecture.core.machine import describe_device, resolve_device
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.tokenizer import (
    Tokenizer,
    get_tokenizer,
    learns_from_text,
    tokenizer_from_dict,
)
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError
from gpt_architecture.formats.card import model_folder
from gpt_architecture.formats.door import locate, open_model, read_any
from gpt_architecture.formats.model_file import (
    MODEL_NAME,
    ModelFile,
    check_vocabulary,
    read_model,
)
from gpt_architecture.formats.quantized_file import QuantizedFile, load_quantized

# Les formats d'ailleurs s'inscrivent à la porte : qui ouvre un modèle passe par ici.
import gpt_architecture.interop  # isort: skip  # noqa: F401

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "torch", "packed"]
"""Calcul du décodage : noyaux compilés (`packed`), PyTorch seul, ou le meilleur des deux."""

COMPILE_FROM = 5_000_000
"""En deçà, PyTorch écrit des centaines de tokens par seconde sans faire attendre, la première fois,
une vingtaine de secondes de compilation."""


@checked_options
def load(
    path: Path | str = MODEL_NAME,
    *,
    device: str | torch.device = "auto",
    quant: str | None = None,
    engine: EngineName = "auto",
    draft: Path | str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    compile_from: int = COMPILE_FROM,
) -> GPT:
    """Charge un modèle entraîné ici, ou un GPT-2 venu d'ailleurs.

    Args:
        path: fichier ou dossier d'un entraînement, point de reprise, modèle quantifié, adaptateurs
            dont le modèle de départ est à sa place, dossier de Transformers, ckpt.pt de nanoGPT,
            .pth du livre de Raschka, ou `hub:DÉPÔT`, alors téléchargé.
        device: voir `core.machine.resolve_device`.
        quant: `int8` ou `int4` : quantifie les poids au chargement, sur CPU.
        engine: `packed` exige les noyaux compilés, `torch` s'en passe.
        draft: modèle auxiliaire, de même tokenizer et nommé de même, pour le décodage spéculatif.
        drafts: tokens que le modèle propose lui-même, puis vérifie, à un texte seul ; 0 : aucun.
            Le texte reste le même ; la copie qui propose prend le quart des poids, et n'est faite
            que pour un texte qui la paiera (voir `decoding.proposers`).
        compile_from: paramètres à partir desquels `auto` prend les noyaux compilés.

    Raises:
        ModelFileError: fichier absent, illisible, dangereux ou d'un format inconnu.
        ConfigurationError: périphérique absent, ou réglages qui ne vont pas ensemble.
        MissingDependencyError: numba manque et il est exigé.

    Examples:
        >>> from gpt_architecture import load
        >>> gpt = load("modele")
        >>> gpt.generate("Un soir", strategy="top_p", p=0.9, max_tokens=4, seed=1)[:7]
        'Un soir'
    """
    check_int("drafts", drafts, minimum=0, maximum=MAX_SELF_DRAFT)
    target, opened = resolve_device(str(device)), open_model(path)
    content: ModelFile | QuantizedFile
    if opened.kind == "quantized":
        content = load_quantized(opened.path, opened=opened.safetensors)
    else:
        content = opened.read()
    return assembled(content, path, target, quant, engine, draft, drafts, compile_from)


def loaded(model: object, **options: Any) -> GPT:
    """Le modèle donné : déjà chargé (`GPT`, ou l'entraînement qui l'a fait), sinon à charger.

    Args:
        model: le modèle, un chemin, ou None : gpt-model.pt, ici.
        options: celles de `load`.

    Raises:
        ConfigurationError: `device` ou `quant` demandés d'un modèle déjà chargé ; ou `model` n'est
            ni un modèle ni un chemin.
        ModelFileError: voir `load`.
    """
    found = held(model)
    if found is None:
        return load(source_of(model), **options)
    for name, default in (("device", "auto"), ("quant", None)):
        if options.get(name, default) != default:
            raise ConfigurationError(
                f"`{name}` est donné avec un modèle déjà chargé",
                expected="un chemin, qui sera chargé ainsi",
                remedy=f"donnez `{name}` à load, ou retirez-le",
            )
    return found


def held(model: object) -> GPT | None:
    """Le modèle déjà chargé que tient `model` : lui-même, ou celui de son `Run`."""
    found = model if isinstance(model, GPT) else getattr(model, "model", None)
    return found if isinstance(found, GPT) else None


def source_of(model: object) -> Path:
    """Le chemin, ou le nom du Hub, que désigne `model` ; None : gpt-model.pt, ici.

    Raises:
        ConfigurationError: ce n'est ni un chemin ni un texte.
    """
    path = getattr(model, "path", model)  # un `Run` sait où est le sien
    if path is None:
        return Path(MODEL_NAME)
    if not isinstance(path, (str, Path)):
        raise ConfigurationError.wrong("`model`", model, expected="un modèle chargé, ou un chemin")
    return Path(path)


def folder_of(model: object) -> Path | None:
    """Le dossier d'un modèle d'ici, où sont son certificat et son journal ; None : inconnu."""
    gpt = held(model)
    return model_folder(source_of(model)) if gpt is None else gpt.folder


def content_of(model: object, **options: Any) -> ModelFile:
    """Les poids d'un modèle, lus de son fichier, ou de celui qui est chargé.

    Args:
        model: voir `loaded`.
        options: celles de `formats.door.read_any`.

    Raises:
        ConfigurationError: le modèle chargé est quantifié.
        ModelFileError: voir `read_any`.
    """
    gpt = model if isinstance(model, GPT) else None
    if gpt is None:
        return read_any(source_of(model), **options)
    if not isinstance(gpt.model, GPTModel):
        raise ConfigurationError(
            "ce modèle est quantifié",
            expected="un modèle en virgule flottante",
            remedy="donnez le gpt-model.pt d'origine",
        )
    return ModelFile(
        config=gpt.config,
        state_dict=gpt.model.state_dict(),
        tokenizer=gpt.tokenizer.to_dict(),
        metadata=gpt.metadata,
    )


def find_tokenizer(name: str | Path | Tokenizer) -> Tokenizer:
    """Le tokenizer d'un nom, d'un `tokenizer.json`, d'un dossier qui en a un, ou d'un modèle.

    Raises:
        ConfigurationError: un tokenizer appris, par son nom : son vocabulaire est à faire d'abord.
        TokenizerError: nom inconnu ou fichier illisible.
        ModelFileError: fichier .pt qui n'est pas un modèle.
    """
    if not isinstance(name, (str, Path)):
        return name
    name = str(name)
    if learns_from_text(name):
        remedy = "apprenez-le d'abord : gpt-architecture tokenizer train SOURCE… --out FICHIER"
        if name.startswith("simple"):
            remedy = "enregistrez-le avec SimpleTokenizerV2.from_text(…).save(…)"
        raise ConfigurationError(
            f"le vocabulaire du tokenizer {name} vient d'un texte, qui manque ici",
            expected="gpt2 ou le fichier JSON d'un tokenizer enregistré",
            remedy=f"{remedy} et donnez ce fichier",
        )
    if Path(name).suffix == ".pt" or _is_run(Path(name)):
        return tokenizer_from_dict(read_model(locate(name)).tokenizer)
    return get_tokenizer(name)


def _is_run(path: Path) -> bool:
    """Vrai pour un dossier d'entraînement, ou un point de reprise."""
    names = (MODEL_NAME, "checkpoints", "manifest.json")
    return any((path / name).exists() for name in names)


def assembled(
    content: ModelFile | QuantizedFile,
    path: Path | str,
    device: torch.device,
    quant: str | None = None,
    engine: EngineName = "auto",
    draft: Path | str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    compile_from: int = COMPILE_FROM,
) -> GPT:
    """Le modèle lu, ce qui calcule à sa place, son tokenizer et son modèle auxiliaire."""
    check_vocabulary(content.config, content.tokenizer, name=str(path))
    tokenizer = tokenizer_from_dict(content.tokenizer)
    if engine == "auto" and quant is None and content.config.num_parameters() < compile_from:
        engine = "torch"
    model: CausalLM
    if isinstance(content, QuantizedFile):
        if quant is not None:
            raise ConfigurationError(
                f"{path} est déjà quantifié",
                expected="un modèle en fp32",
                remedy="retirez `quant`",
            )
        model, runner = _quantized(content, device), None
    else:
        model = content.build(device)
        runner = runner_of(model, device, quant, engine)
    logger.info("%s chargé sur %s", path, describe_device(device))
    return GPT(
        model=model,
        tokenizer=tokenizer,
        device=device,
        metadata=content.metadata,
        runner=runner,
        draft=None if draft is None else _draft(draft, device, engine, tokenizer),
        drafts=drafts,
        name=str(path),
        quant=quant,
    )


def _quantized(file: QuantizedFile, device: torch.device) -> CausalLM:
    from gpt_architecture.kernels.decode.packed import PackedModel

    if device.type != "cpu":
        raise _cpu_only("un modèle quantifié", device)
    return PackedModel.from_codes(file.config, file.scheme, file.codes, file.vectors)


def runner_of(
    model: CausalLM, device: torch.device, quant: str | None, engine: EngineName
) -> CausalLM | None:
    """Le modèle compacté, là où il convient ; None : PyTorch calcule."""
    if quant is not None:
        check_choice("`quant`", quant, ("int8", "int4"))
    wanted = engine == "packed" or quant is not None
    if engine == "torch" and quant is not None:
        raise ConfigurationError(
            f"quant={quant} avec engine=torch",
            expected="les noyaux compilés",
            remedy="retirez l'un des deux",
        )
    if device.type != "cpu" and wanted:
        raise _cpu_only("des poids compactés", device)
    has_kernels = device.type == "cpu" and importlib.util.find_spec("numba") is not None
    if engine == "torch" or not (wanted or has_kernels):
        return None
    from gpt_architecture.kernels import shape_obstacle
    from gpt_architecture.kernels.decode.packed import pack

    obstacle = shape_obstacle(model.cfg)
    needed = "engine=packed" if engine == "packed" else f"quant={quant}"
    if obstacle is not None and (engine == "packed" or (quant and model.cfg.head is not None)):
        raise ConfigurationError(
            f"{needed} : {obstacle}",
            expected="un modèle au calcul de GPT-2",
            remedy=f"retirez {needed}",
        )
    if obstacle is not None and quant is None:
        logger.info("décodage par PyTorch : %s", obstacle)
        return None
    try:
        packed: CausalLM = pack(model, quant or "fp32")  # type: ignore[arg-type]
    except GPTArchitectureError:
        if wanted:
            raise
        return None
    return packed


def _cpu_only(what: str, device: torch.device) -> ConfigurationError:
    return ConfigurationError(
        f"{what} sur {device.type}", expected="le processeur", remedy="ajoutez `device=cpu`"
    )


def _draft(
    path: Path | str, device: torch.device, engine: EngineName, tokenizer: Tokenizer
) -> CausalLM:
    content = read_any(path)
    if dict(content.tokenizer) != tokenizer.to_dict():
        raise ConfigurationError(
            f"{path} a un autre tokenizer que le modèle",
            expected="le même vocabulaire",
            remedy="donnez un modèle auxiliaire entraîné avec le même tokenizer",
        )
    model = content.build(device)
    return runner_of(model, device, None, engine) or model
