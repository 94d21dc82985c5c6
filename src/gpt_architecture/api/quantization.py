"""Un modèle écrit sur 8 ou 4 bits, et ce qu'il y perd."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpt_architecture.api.loading import content_of, held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.config import END_OF_TEXT, check_int
from gpt_architecture.core.grouped_codes import GROUP_SIZES, Scheme, SchemeName
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.reliability import Fidelity, compare_models
from gpt_architecture.formats.door import is_remote, locate, short_name
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.quantized_file import save_quantized
from gpt_architecture.french import decimal, french_size, percent
from gpt_architecture.storage import check_outputs, nothing

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run
    from gpt_architecture.kernels.decode.packed import PackedModel


@dataclass(frozen=True, kw_only=True, repr=False)
class Quantization:
    """Un modèle quantifié.

    Attributes:
        output: le fichier.
        scheme: `int8` ou `int4`.
        group_size: poids par échelle.
        bytes_before: taille des poids en fp32, en octets.
        bytes_after: leur taille, quantifiés.
        fidelity: ce qu'il perd de l'original ; None : non mesuré.
    """

    output: str
    scheme: SchemeName
    group_size: int
    bytes_before: int
    bytes_after: int
    fidelity: Fidelity | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        record: dict[str, Any] = {
            "output": self.output,
            "scheme": self.scheme,
            "group_size": self.group_size,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }
        if self.fidelity is not None:
            record |= {
                "tokens": self.fidelity.tokens,
                "perplexity_before": self.fidelity.reference_perplexity,
                "perplexity_after": self.fidelity.candidate_perplexity,
                "perplexity_gap": self.fidelity.relative_gap,
                "greedy_agreement": self.fidelity.agreement,
            }
        return record

    @property
    def _facts(self) -> list[tuple[str, str]]:
        sizes = f"de {french_size(self.bytes_before)} à {french_size(self.bytes_after)}"
        facts = [("schéma", f"{self.scheme}, groupes de {self.group_size}"), ("poids", sizes)]
        if self.fidelity is not None:
            before, after = self.fidelity.reference_perplexity, self.fidelity.candidate_perplexity
            facts.append(("perplexité", f"de {decimal(before, 3)} à {decimal(after, 3)}"))
            facts.append(("même token glouton", percent(self.fidelity.agreement)))
        return facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Quantization({self.output} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Modèle quantifié : {self.output}", self._facts)


@checked_options
def quantize(
    model: GPT | Run | Path | str | None = None,
    *,
    scheme: SchemeName = "int8",
    group_size: int = 32,
    output: Path | str | None = None,
    text: Path | str | None = None,
    tokens: int = 8192,
    force: bool = False,
    progress: bool | None = None,
) -> Quantization:
    """Écrit un modèle quantifié sur 8 ou 4 bits, comme `gpt-architecture quantize`.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        scheme: bits par poids : `int8`, ou `int4` (6 pour la tête de sortie et l'embedding).
        group_size: poids par échelle : 32, 64 ou 128.
        output: fichier à écrire ; None : le nom du modèle suivi du schéma, à côté de lui.
        text: texte que le modèle n'a pas appris : mesure ce qui est perdu.
        tokens: tokens de ce texte à mesurer, au plus.
        force: remplace un fichier qui existe.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: réglage hors bornes, ou forme que les noyaux ne calculent pas.
        MissingDependencyError: numba n'est pas installé.
        ModelFileError: voir `load`.
        OutputError: fichier pris, ou disque qui refuse.

    Examples:
        >>> from gpt_architecture import quantize
        >>> found = quantize("modele", scheme="int8", output="modele-int8.safetensors")
        >>> found.bytes_after < found.bytes_before
        True
    """
    from gpt_architecture.reports.console import ProgressBar

    if group_size not in GROUP_SIZES:
        sizes = " ou ".join(map(str, GROUP_SIZES))
        raise ConfigurationError.wrong("`group_size`", group_size, expected=sizes)
    output, path = quantized_output(model, scheme, output)
    check_int("`tokens`", tokens, minimum=2)
    check_outputs({"`output`": (output, nothing)}, reads=(path, text), force=force)
    from gpt_architecture.kernels.decode.packed import pack

    content = content_of(model)
    content.config.check_writes()
    with ProgressBar("Quantification", shown=progress):
        packed = pack(content.build(), Scheme(name=scheme, group_size=group_size))
    save_quantized(output, packed, tokenizer=content.tokenizer, metadata=content.metadata)
    measure = partial(_fidelity, content, packed, tokens=tokens, progress=progress)
    return Quantization(
        output=str(output),
        scheme=scheme,
        group_size=group_size,
        bytes_before=4 * content.config.num_parameters(),
        bytes_after=packed.nbytes,
        fidelity=None if text is None else measure(text),
    )


def quantized_output(
    model: object, scheme: str, output: Path | str | None
) -> tuple[Path, Path | None]:
    """Le fichier à écrire, et celui qui est lu ; None : un modèle déjà chargé.

    Args:
        model: voir `quantize`, comme les suivants.
        scheme: voir `quantize`.
        output: voir `quantize`.

    Raises:
        ConfigurationError: rien ne dit où écrire, ou ce n'est pas un .safetensors.
        ModelFileError: modèle absent.
    """
    chosen, path = _place_of(model, scheme, output)
    if chosen.suffix != ".safetensors":
        raise ConfigurationError.wrong(
            "`output`", str(chosen), expected="un nom en .safetensors", remedy="changez l'extension"
        )
    return chosen, path


def _place_of(model: object, scheme: str, output: Path | str | None) -> tuple[Path, Path | None]:
    if held(model) is not None and not hasattr(model, "path"):
        if output is None:
            raise ConfigurationError(
                "`output` n'est pas donné",
                expected="le fichier à écrire : un modèle déjà chargé n'a pas de place à lui",
                remedy="donnez `output`",
            )
        return Path(output), None
    source = source_of(model)
    path = locate(source)
    if output is not None:
        return Path(output), path
    inside = source if source.is_dir() and not is_remote(source) else Path()
    folder = source.parent if path == source else inside
    return folder / f"{short_name(source, path)}-{scheme}.safetensors", path


def _fidelity(
    content: ModelFile,
    packed: PackedModel,
    text: Path | str,
    *,
    tokens: int,
    progress: bool | None,
) -> Fidelity:
    """Ce que le modèle quantifié perd, sur un texte."""
    from gpt_architecture.reports.console import ProgressBar

    corpus, tokenizer = load_corpus([Path(text)]), tokenizer_from_dict(content.tokenizer)
    ids = tokenizer.encode(corpus.text, allowed_special={END_OF_TEXT})
    learned, limit = content.metadata.get("window"), content.config.context_length
    with ProgressBar("Mesure", shown=progress) as bar:
        return compare_models(
            content.build(),
            packed,
            torch.tensor(ids[: tokens + 1], dtype=torch.int64),
            window=min(learned, limit) if isinstance(learned, int) and learned > 0 else limit,
            on_progress=lambda done, total: bar.start(total, done),
        )
