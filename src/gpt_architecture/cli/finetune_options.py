"""Les options d'affinage de `train`, et le modèle de départ qu'elles désignent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.config import GPTConfig, LoRAConfig, LoRATarget
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.storage import read_text

if TYPE_CHECKING:
    from gpt_architecture.training.starting_point import StartingPoint

_MAX_TEMPLATE_FILE = 1 << 20
_WINDOW = 256
_LORA = {"lora_alpha": "alpha", "lora_targets": "targets", "lora_dropout": "dropout"}


@Parameter(name="*", group=Group("Affinage", sort_key=2.5))
@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """D'où repartir, sur quelles conversations, avec quels adaptateurs."""

    start: Annotated[Path | None, Parameter(name="--from")] = None
    """Modèle dont viennent les poids, la forme et le tokenizer : fichier, point de reprise, dossier
    d'entraînement ou de Transformers, hub:DÉPÔT."""

    chat: Path | None = None
    """Conversations, en JSONL ou en JSON, à la place des textes ; seules les réponses
    s'apprennent."""

    chat_template: Path | None = None
    """Fichier du gabarit Jinja des conversations ; sans lui, celui du modèle, sinon du projet."""

    lora_rank: int | None = None
    """Rang d'adaptateurs LoRA, seuls à apprendre ; sans lui, tous les poids apprennent."""

    lora_alpha: float = LoRAConfig.alpha
    """Force des adaptateurs : leur facteur est lora-alpha / lora-rank."""

    lora_targets: Annotated[tuple[LoRATarget, ...], Parameter(consume_multiple=True)] = (
        LoRAConfig.targets
    )
    """Matrices adaptées dans chaque bloc : query, key, value, output, up, down."""

    lora_dropout: float = LoRAConfig.dropout
    """Probabilité d'abandon à l'entrée des adaptateurs."""

    def __post_init__(self) -> None:
        if self.chat_template is not None and self.chat is None:
            raise _together("--chat-template sans --chat", "ajoutez --chat FICHIER.jsonl")
        if self.lora_rank is None:
            for option, name in _LORA.items():
                if getattr(self, option) != getattr(LoRAConfig, name):
                    flag = f"--{option.replace('_', '-')}"
                    raise _together(f"{flag} sans --lora-rank", "ajoutez --lora-rank")
        elif self.start is None:
            raise _together("--lora-rank sans --from", "ajoutez --from MODÈLE")
        self.lora()  # refuse tout de suite un réglage hors bornes

    def lora(self) -> LoRAConfig | None:
        """Les réglages des adaptateurs ; None : tous les poids apprennent.

        Raises:
            ConfigurationError: valeur hors bornes.
        """
        if self.lora_rank is None:
            return None
        values = {name: getattr(self, option) for option, name in _LORA.items()}
        return LoRAConfig(rank=self.lora_rank, **values)

    def saved(self) -> dict[str, Any]:
        """Les options telles qu'un point de reprise les garde : noms d'options, chemins absolus."""
        flat = {"from" if name == "start" else name: v for name, v in asdict(self).items()}
        for name in ("from", "chat", "chat_template"):
            if flat[name] is not None and flat[name].exists():  # hub:DÉPÔT reste un nom
                flat[name] = str(flat[name].resolve())
            elif flat[name] is not None:
                flat[name] = str(flat[name])
        if self.lora_rank is not None:
            flat["lora_targets"] = list(self.lora_targets)
            return flat
        return {name: value for name, value in flat.items() if name not in _LORA}

    def template(self) -> str | None:
        """Le gabarit demandé, sinon celui du modèle de départ, sinon None.

        Raises:
            DataError: fichier illisible, ou gabarit mal écrit.
        """
        from gpt_architecture.data.texts.chat import check_template

        if self.chat_template is not None:
            text = read_text(
                self.chat_template,
                expected="un gabarit Jinja en UTF-8",
                remedy="corrigez --chat-template",
                limit=_MAX_TEMPLATE_FILE,
            )
            return check_template(text)
        return None if self.start is None else starting_point(self.start).chat_template


@lru_cache(maxsize=1)
def starting_point(path: Path) -> StartingPoint:
    """Le modèle de départ, d'ici ou d'ailleurs.

    Raises:
        ModelFileError: fichier absent, illisible ou d'un autre format.
    """
    from gpt_architecture.api import read_any
    from gpt_architecture.training.starting_point import StartingPoint

    return StartingPoint(name=str(path), content=read_any(path))


def starting_shape(path: Path) -> dict[str, Any]:
    """Les options de forme que le modèle de départ impose, et le contexte qu'il a appris."""
    content = starting_point(path).content
    variants = content.config.variants()  # elles n'ont pas d'option : le modèle les garde
    shape = {k: v for k, v in content.config.to_dict().items() if k not in variants}
    del shape["vocab_size"]
    shape["positions"] = shape["context_length"]
    learned = content.metadata.get("window")
    window = learned if isinstance(learned, int) and learned > 0 else _WINDOW
    shape["context_length"] = min(window, shape["positions"])
    return shape


def check_shape(asked: GPTConfig, start: StartingPoint) -> None:
    """Refuse une forme qui n'est pas celle du modèle de départ ; le dropout est libre.

    Raises:
        ConfigurationError: la différence est montrée.
    """
    names = {"context_length": "positions"}
    before: Mapping[str, Any] = start.content.config.to_dict()
    for name, value in asked.to_dict().items():
        if name != "drop_rate" and value != before[name]:
            flag = f"--{names.get(name, name).replace('_', '-')}"
            raise ConfigurationError(
                f"{flag} vaut {value}, et {before[name]} dans {start.name}",
                expected="la forme du modèle de départ",
                remedy=f"retirez {flag}",
            )


def _together(found: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(found, expected="les deux ensemble", remedy=remedy)
