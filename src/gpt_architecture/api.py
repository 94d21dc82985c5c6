"""La bibliothèque en trois lignes : charger un modèle, générer.

from gpt_architecture import load
gpt = load("gpt-model.pt")
print(gpt.generate("Every effort", strategy="top_p", p=0.9, max_tokens=50, seed=1))
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig, check_int
from gpt_architecture.core.machine import describe_device, resolve_device
from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template, render_chat
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.marked_text import plain, written
from gpt_architecture.decoding.config import GenerationConfig, config_of
from gpt_architecture.decoding.constraints import cut_warning
from gpt_architecture.decoding.generator import Generation, Generator
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.decoding.sequence import Observer, Piece, TokenScore
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.door import (
    OpenedModel,
    check_source,
    is_remote,
    locate,
    open_model,
    read_any,
    short_name,
)
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import MODEL_NAME, ModelFile, check_vocabulary
from gpt_architecture.formats.quantized_file import QuantizedFile, load_quantized

# Les formats d'ailleurs s'inscrivent à la porte : qui ouvre un modèle passe par ici.
import gpt_architecture.interop  # isort: skip  # noqa: F401

__all__ = [
    "COMPILE_FROM",
    "GPT",
    "EngineName",
    "OpenedModel",
    "check_source",
    "inspect_model",
    "is_remote",
    "load",
    "locate",
    "open_model",
    "read_any",
    "short_name",
]

if TYPE_CHECKING:
    from gpt_architecture.training.callbacks import Callback
    from gpt_architecture.training.checkpoint import TrainingState

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "torch", "packed"]
"""Calcul du décodage : noyaux compilés (`packed`), PyTorch seul, ou le meilleur des deux."""

COMPILE_FROM = 5_000_000
"""En deçà, PyTorch écrit des centaines de tokens par seconde sans faire attendre, la première fois,
une vingtaine de secondes de compilation."""


@dataclass(frozen=True, kw_only=True)
class GPT:
    """Un modèle prêt à écrire, avec son tokenizer ; `load` le construit.

    Attributes:
        model: le réseau, en évaluation.
        tokenizer: celui de l'entraînement.
        device: où le modèle calcule.
        metadata: provenance et résultats de l'entraînement.
        runner: ce qui calcule pendant la génération ; None : `model` lui-même.
        draft: petit modèle qui propose ce que le grand vérifie ; None : aucun.
        drafts: tokens que le modèle propose lui-même à une suite seule, au plus (poids fp32, noyaux
            compilés) ; 0 : aucun. Le texte reste le même.
    """

    model: CausalLM
    tokenizer: Tokenizer
    device: torch.device
    metadata: Mapping[str, Any] = field(default_factory=dict)
    runner: CausalLM | None = None
    draft: CausalLM | None = None
    drafts: int = MAX_SELF_DRAFT

    @property
    def config(self) -> GPTConfig:
        """Forme du modèle."""
        return self.model.cfg

    @property
    def window(self) -> int:
        """Longueur de contexte apprise, en tokens : celle des fenêtres de l'entraînement.

        Les positions au-delà existent peut-être mais n'ont rien appris ; la génération ne
        s'en sert pas.
        """
        learned = self.metadata.get("window")
        limit = self.config.context_length
        return min(learned, limit) if isinstance(learned, int) and learned > 0 else limit

    @cached_property
    def generator(self) -> Generator:
        """Le générateur complet : lots, scores, flux (voir `decoding.generator`)."""
        model = self.model if self.runner is None else self.runner
        return Generator(
            model, self.tokenizer, window=self.window, draft=self.draft, drafts=self.drafts
        )

    def encode(self, prompt: str, *, parse_special: bool = False) -> Tensor:
        """Texte → (1, T) int64, sur le périphérique du modèle.

        Args:
            prompt: le texte.
            parse_special: les noms de tokens spéciaux qui s'y trouvent en sont ; sinon, seuls le
                sont ceux qu'un gabarit a écrits (`chat_prompt`).

        Raises:
            ConfigurationError: le texte ne donne aucun token.
        """
        prompt = written(prompt) if parse_special else prompt
        return torch.tensor([self.generator.encode(prompt)], device=self.device)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Le texte d'une conversation, prêt pour la réponse du modèle.

        Ses tokens spéciaux sont ceux du gabarit ; ce qu'un message contient reste du texte. Il se
        donne tel quel à `generate` : un texte qu'on en tire (`+`, `format`) ne les a plus.

        Args:
            messages: chacun a un `role` (system, user, assistant) et un `content`.

        Raises:
            ConfigurationError: le modèle n'a pas de gabarit de conversation.
            DataError: message mal formé, ou que le gabarit refuse.
        """
        template = self.metadata.get(CHAT_TEMPLATE)
        if template is None:
            raise ConfigurationError(
                "ce modèle n'a pas de gabarit de conversation",
                expected="un modèle affiné par « gpt-architecture train --chat »",
                remedy="affinez-le ainsi, ou faites-lui continuer un texte",
            )
        return render_chat(
            messages,
            check_template(template),
            tokenizer=self.tokenizer,
            add_generation_prompt=True,
        )

    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> str:
        """Écrit la suite de `prompt` et rend le tout.

        La génération s'arrête au token de fin de texte, qui n'est pas rendu.

        Args:
            prompt: début du texte.
            config: comment générer ; None : la configuration par défaut.
            parse_special: voir `encode`.
            settings: réglages de `GenerationConfig`, à la place de `config` ; `top_k` et `top_p`
                valent `k` et `p`. Sans `strategy`, un filtre ou une température demande un tirage.

        Raises:
            ConfigurationError: réglage inconnu ou hors bornes, donné avec `config`, ou début vide.
        """
        pieces = self.stream(prompt, config, parse_special=parse_special, **settings)
        return plain(prompt) + "".join(pieces)

    def generate_batch(
        self,
        prompts: Sequence[str],
        config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> list[list[Generation]]:
        """Les suites de plusieurs débuts, qui avancent ensemble (voir `Generator.generate`)."""
        prompts = [written(each) for each in prompts] if parse_special else prompts
        return self.generator.generate(prompts, _config(config, settings))

    def stream(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> Iterator[str]:
        """Rend la suite de `prompt` morceau par morceau, sans le début ; voir `generate`.

        Un avertissement dit si `max_tokens` la coupe avant qu'elle vérifie sa contrainte.
        """
        config = _config(config, settings)
        for piece in self.pieces(prompt, config, parse_special=parse_special):
            if piece.text:
                yield piece.text
            if warning := cut_warning(config, piece.finish):
                logger.warning("%s", warning)

    def pieces(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        observer: Observer | None = None,
        parse_special: bool = False,
        **settings: Any,
    ) -> Iterator[Piece]:
        """La suite token par token, scores et fin compris ; voir `generate`.

        Args:
            observer: reçoit ce que chaque étape a calculé (voir `Generator.stream`).
        """
        start = written(prompt) if parse_special else prompt
        return self.generator.stream(start, _config(config, settings), observer=observer)

    def score(self, text: str, *, top: int = 0) -> list[TokenScore]:
        """Probabilité de chaque token d'un texte (voir `Generator.score`)."""
        return self.generator.score(text, top=top)


def load(
    path: Path | str = MODEL_NAME,
    *,
    device: str = "auto",
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
        draft: petit modèle de même tokenizer, nommé de même, qui propose ce que le grand vérifie.
        drafts: tokens que le modèle propose lui-même, puis vérifie, à une suite seule ; 0 : aucun.
            Le texte reste le même ; la copie qui propose prend le quart des poids, et n'est faite
            que pour un texte qui la paiera (voir `decoding.proposers`).
        compile_from: paramètres à partir desquels `auto` prend les noyaux compilés.

    Raises:
        ModelFileError: fichier absent, illisible, dangereux ou d'un format inconnu.
        ConfigurationError: périphérique absent, ou réglages qui ne vont pas ensemble.
        MissingDependencyError: numba manque et il est exigé.
    """
    check_int("drafts", drafts, minimum=0, maximum=MAX_SELF_DRAFT)
    target, opened = resolve_device(device), open_model(path)
    content: ModelFile | QuantizedFile
    if opened.kind == "quantized":
        content = load_quantized(opened.path, opened=opened.safetensors)
    else:
        content = opened.read()
    return _assembled(content, path, target, quant, engine, draft, drafts, compile_from)


def train(
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> tuple[GPT, TrainingState]:
    """Entraîne comme `gpt-architecture train`, d'un appel, et écrit les mêmes fichiers.

        gpt, history = train("mon-texte.txt", output_dir="modele", preset="petit", epochs=3)
        print(history.val_losses[-1], gpt.generate("Il était une fois"))

    Args:
        data: texte, dossier, fragments ou nom connu ; None : celui de la commande.
        callbacks: écoutent la boucle (voir `training.callbacks`).
        should_stop: interrogé souvent ; vrai : écrit un point de reprise et rend la main.
        settings: les options de la commande, en soulignés (`epochs`, `emb_dim`, `output_dir`,
            `resume`, `preset`…) ; `--from` s'y nomme `start`.

    Returns:
        Le modèle, prêt à écrire, et son histoire : étapes, pertes, tokens lus. Arrêté en chemin,
        le modèle est celui du point de reprise.

    Raises:
        GPTArchitectureError: réglage inconnu, données absentes, dossier qui contient un autre
            entraînement… : les refus de la commande.
    """
    from gpt_architecture.training.inputs import Origins
    from gpt_architecture.training.preparation import prepare, request_of
    from gpt_architecture.training.run import train_model

    origins = Origins()
    asked = settings if data is None else {"data": data, **settings}
    run = prepare(request_of(asked, origins), origins)
    outcome = train_model(run, callbacks=callbacks, should_stop=should_stop)
    path = run.path if outcome.model is not None else run.store.path_of(outcome.state.step)
    start, device = run.settings.start, run.settings.device
    if run.settings.lora is None or start is None:
        return load(path, device=str(device)), outcome.state
    content = read_adapter(path).merged(start.content)  # rien à retrouver, fût-il venu du Hub
    return _assembled(content, path, device), outcome.state


def _assembled(
    content: ModelFile | QuantizedFile,
    path: Path | str,
    device: torch.device,
    quant: str | None = None,
    engine: EngineName = "auto",
    draft: Path | str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    compile_from: int = COMPILE_FROM,
) -> GPT:
    """Le modèle lu, ce qui calcule à sa place s'il y a lieu, son tokenizer et son appoint."""
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
        runner = _runner(model, device, quant, engine)
    logger.info("%s chargé sur %s", path, describe_device(device))
    return GPT(
        model=model,
        tokenizer=tokenizer,
        device=device,
        metadata=content.metadata,
        runner=runner,
        draft=None if draft is None else _draft(draft, device, engine, tokenizer),
        drafts=drafts,
    )


def _quantized(file: QuantizedFile, device: torch.device) -> CausalLM:
    from gpt_architecture.kernels.decode.packed import PackedModel

    if device.type != "cpu":
        raise _cpu_only("un modèle quantifié", device)
    return PackedModel.from_codes(file.config, file.scheme, file.codes, file.vectors)


def _runner(
    model: CausalLM, device: torch.device, quant: str | None, engine: EngineName
) -> CausalLM | None:
    """Le modèle compacté, là où il convient ; None : PyTorch calcule."""
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
    if obstacle is not None and engine == "packed":
        raise ConfigurationError(
            f"engine=packed : {obstacle}",
            expected="un modèle au calcul de GPT-2",
            remedy="retirez engine=packed",
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
            remedy="donnez un modèle d'appoint entraîné avec le même tokenizer",
        )
    model = content.build(device)
    return _runner(model, device, None, engine) or model


_Given = TypeVar("_Given", bound="GenerationConfig | Sequence[GenerationConfig]")


def _config(config: _Given | None, settings: Mapping[str, Any]) -> _Given | GenerationConfig:
    """La configuration donnée, sinon celle des réglages nommés."""
    if config is None:
        return config_of(settings)
    if settings:
        raise ConfigurationError(
            f"config et {', '.join(settings)} sont donnés ensemble",
            expected="l'un ou l'autre",
            remedy="mettez tous les réglages dans config",
        )
    return config
