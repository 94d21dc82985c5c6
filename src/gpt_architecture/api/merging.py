"""Des adaptateurs fondus dans leur modèle de départ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import content_of, held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.config import LoRAConfig
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.door import locate
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.french import counted, french_size
from gpt_architecture.storage import check_outputs, nothing

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run


@dataclass(frozen=True, kw_only=True, repr=False)
class Merge:
    """Ce qu'une fusion a écrit.

    Attributes:
        output: le fichier du modèle.
        bytes: sa taille, en octets.
        lora: réglages des adaptateurs fondus.
        adapters: leur nombre.
    """

    output: str
    bytes: int
    lora: LoRAConfig
    adapters: int

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        return {"output": self.output, "bytes": self.bytes, "lora": self.lora.to_dict()}

    def __str__(self) -> str:
        count = counted(self.adapters, "adaptateur")
        merged = "fondus" if self.adapters > 1 else "fondu"
        size = french_size(self.bytes)
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
    adapter: Run | Path | str,
    out: Path | str,
    *,
    force: bool = False,
) -> Merge:
    """Fond des adaptateurs dans leur modèle de départ, comme `gpt-architecture merge`.

    Args:
        start: modèle dont l'affinage est parti ; tout autre est refusé.
        adapter: l'affinage, son dossier, un de ses points de reprise, ou adapter.safetensors.
        out: fichier du modèle à écrire.
        force: remplace un fichier qui existe.

    Raises:
        ModelFileError: fichier absent ou abîmé, ou adaptateurs d'un autre modèle.
        OutputError: fichier pris, ou disque qui refuse.

    Examples:
        >>> from gpt_architecture import merge, train
        >>> tuned = train("texte.txt", start="modele", lora_rank=2, max_steps=2, output_dir="lora")
        >>> found = merge("modele", tuned, "fondu.pt")
        >>> found.lora.rank, found.adapters > 0
        (2, True)
    """
    out, source = Path(out), source_of(adapter)
    reads = (source, getattr(held(start), "name", "") or source_of(start))
    check_outputs({"`out`": (out, nothing)}, reads=reads, force=force)
    found = read_adapter(locate(source))
    merged = found.merged(content_of(start))
    save_model(
        out,
        merged.build(),
        merged.config,
        tokenizer=merged.tokenizer,
        metadata=merged.metadata,
    )
    return Merge(
        output=str(out),
        bytes=out.stat().st_size,
        lora=found.lora,
        adapters=len(found.tensors) // 2,
    )
