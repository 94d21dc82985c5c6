"""Des adaptateurs fondus dans leur modèle de départ, un affinage ou plusieurs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import content_of, held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.config import LoRAConfig, check_float
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.adapter_file import ADAPTER_NAME, AdapterFile, merge_adapters
from gpt_architecture.formats.door import locate
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.formats.own_formats import read_adapters
from gpt_architecture.french import counted, french_size, short
from gpt_architecture.storage import check_outputs, nothing

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class Merge:
    """Ce qu'une fusion a écrit.

    Attributes:
        output: le fichier du modèle.
        bytes: sa taille, en octets.
        lora: réglages des adaptateurs fondus ; des premiers, s'il y en a de plusieurs affinages.
        adapters: nombre de matrices adaptées, un affinage après l'autre.
        weights: nom de chaque affinage et son poids.
    """

    output: str
    bytes: int
    lora: LoRAConfig
    adapters: int
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        weights = [{"name": name, "weight": weight} for name, weight in self.weights]
        known = {"output": self.output, "bytes": self.bytes, "lora": self.lora.to_dict()}
        return {**known, "adapters": weights}

    def __str__(self) -> str:
        count = counted(self.adapters, "adaptateur")
        merged = "fondus" if self.adapters > 1 else "fondu"
        size = french_size(self.bytes)
        if len(self.weights) > 1:
            terms = (f"{'+−'[w < 0]} {short(abs(w))} × {name}" for name, w in self.weights)
            parts = " ".join(terms).removeprefix("+ ")
            return f"{self.output} : {count} {merged}, {parts} ({size})"
        return f"{self.output} : {count} de rang {self.lora.rank} {merged} ({size})"

    def __repr__(self) -> str:
        return f"Merge({self})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [
            ("adaptateurs", str(self.adapters)),
            ("rang", str(self.lora.rank)),
            ("matrices", ", ".join(self.lora.targets)),
            ("taille", french_size(self.bytes)),
        ]
        return facts_cell(f"Adaptateurs fondus : {self.output}", facts)


@checked_options
def merge(
    start: GPT | Run | Path | str,
    adapter: Run | Path | str | Sequence[Run | Path | str],
    out: Path | str,
    *,
    weights: Sequence[float] | None = None,
    force: bool = False,
) -> Merge:
    """Fond des adaptateurs dans leur modèle de départ, comme `gpt-architecture merge`.

    Args:
        start: modèle dont l'affinage est parti ; tout autre est refusé.
        adapter: l'affinage, son dossier, un de ses points de reprise, adapter.safetensors, ou un
            dossier de PEFT ; ou plusieurs, partis du même modèle.
        out: fichier du modèle à écrire.
        weights: le poids de chacun, qui peut être négatif ; None : 1.
        force: remplace un fichier qui existe.

    Raises:
        ConfigurationError: pas autant de poids que d'affinages.
        ModelFileError: fichier absent ou abîmé, ou adaptateurs d'un autre modèle.
        OutputError: fichier pris, ou disque qui refuse.

    Examples:
        >>> from gpt_architecture import merge, train
        >>> tuned = train("texte.txt", start="modele", lora_rank=2, max_steps=2, output_dir="lora")
        >>> found = merge("modele", tuned, "fondu.pt")
        >>> found.lora.rank, found.adapters > 0
        (2, True)
        >>> merge("modele", [tuned, "lora"], "moyenne.pt", weights=[0.5, 0.5]).weights
        (('lora', 0.5), ('lora', 0.5))
    """
    given: list[object] = [adapter]
    if isinstance(adapter, Sequence) and not isinstance(adapter, str):
        given = [*adapter]
    out, sources = Path(out), [source_of(each) for each in given]
    shares = [1.0] * len(sources) if weights is None else [float(each) for each in weights]
    if not sources or len(shares) != len(sources):
        raise ConfigurationError(
            f"{len(shares)} poids pour {counted(len(sources), 'affinage')}",
            expected="un poids par affinage",
            remedy="corrigez `weights`",
        )
    for share in shares:
        check_float("`weights`", share)
    reads = (*sources, getattr(held(start), "name", "") or source_of(start))
    check_outputs({"`out`": (out, nothing)}, reads=reads, force=force)
    found = [read_adapters(source) for source in sources]
    named = tuple(zip(map(_name, sources), shares, strict=True))
    merged = merge_adapters(content_of(start), list(zip(found, shares, strict=True)))
    metadata = dict(merged.metadata)
    if len(found) > 1:
        metadata["merged"] = [{"name": name, "weight": share} for name, share in named]
        _say_template(found)
    save_model(out, merged.build(), merged.config, tokenizer=merged.tokenizer, metadata=metadata)
    return Merge(
        output=str(out),
        bytes=out.stat().st_size,
        lora=found[0].lora,
        adapters=sum(len(each.tensors) // 2 for each in found),
        weights=named,
    )


def _name(source: Path) -> str:
    """Le nom d'un affinage : celui de son dossier, que le fichier a presque toujours le même."""
    path = locate(source)
    return path.resolve().parent.name if path.name == ADAPTER_NAME else path.stem


def _say_template(found: Sequence[AdapterFile]) -> None:
    """Un modèle n'a qu'un gabarit : s'ils en ont plusieurs, dit lequel reste."""
    if len({each.metadata.get(CHAT_TEMPLATE) for each in found}) > 1:
        logger.warning(
            "Ces affinages n'ont pas le même gabarit de conversation : le modèle garde celui du "
            "premier"
        )
