"""Le dossier de confidentialité d'un modèle : ce qu'il retient, d'où il vient, ce qu'il a coûté."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api import privacy
from gpt_architecture.api.loading import content_of, folder_of, held, loaded, source_of
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.config import check_float, check_int
from gpt_architecture.data.shards.layout import holds_shards
from gpt_architecture.evaluation.canaries import ExposureReport
from gpt_architecture.evaluation.extraction import ExtractionReport, measure_extraction
from gpt_architecture.evaluation.membership import MembershipReport
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.card import PRIVACY_FORMAT, card_of
from gpt_architecture.formats.journal import finite_number
from gpt_architecture.storage import check_outputs, json_of, page_of, write_atomically
from gpt_architecture.training.shadows import check_count

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.measures import Sources
    from gpt_architecture.api.runs import Run
    from gpt_architecture.reports.privacy_facts import PrivacyPage

PAGE = "dossier.html"
"""La page, à côté du modèle."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Dossier:
    """Le dossier d'un modèle ; ce qui n'a pas pu être mesuré vaut None.

    Attributes:
        canaries: exposition des canaris plantés par `train --canaries`.
        extraction: part du texte d'entraînement rendue, selon le préfixe.
        membership: inférence d'appartenance.
        record: tout, en types simples : le JSON de la commande.
        path: la page écrite.
        page: ce qu'elle montre.
    """

    canaries: ExposureReport | None
    extraction: ExtractionReport | None
    membership: MembershipReport | None
    record: dict[str, Any]
    path: Path
    page: PrivacyPage

    def show(self, console: Console) -> None:
        """Écrit les parties de la commande."""
        from gpt_architecture.reports.privacy import show_privacy

        show_privacy(console, self.page)

    def __str__(self) -> str:
        from rich.console import Console

        buffer = io.StringIO()
        self.show(Console(file=buffer, width=100, highlight=False, markup=False, emoji=False))
        return buffer.getvalue()

    def __repr__(self) -> str:
        from gpt_architecture.reports.privacy import tiles

        return f"Dossier({'; '.join(f'{name} {value}' for name, value, _ in tiles(self.page))})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell
        from gpt_architecture.reports.privacy import tiles

        facts = [(name, value) for name, value, _ in tiles(self.page)]
        return facts_cell(f"Dossier : {self.page.name}", facts, notes=[f"Page : {self.path}"])


@checked_options
def dossier(
    model: GPT | Run | Path | str | None = None,
    data: Sources = (),
    *,
    shadow: int = 0,
    power: float | None = None,
    carbon: float | None = None,
    out: Path | str | None = None,
    field: str | None = None,
    skip_bad: bool = False,
    offline: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    force: bool = False,
    progress: bool | None = None,
) -> Dossier:
    """Mesure ce qu'un modèle retient de son texte d'entraînement, et en écrit le dossier.

    Deux fichiers sont écrits : une page HTML, et le même dossier en JSON, sous le même nom. Sans
    `out`, ils sont à côté du modèle, où la fiche d'une conversion les lit.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        data: les données de l'entraînement ; vide : le corpus connu que nomme son dernier point de
            reprise, ou le modèle.
        shadow: modèles de référence à entraîner, en nombre pair ; 0 : aucun.
        power: puissance de la machine pendant l'entraînement, en watts ; None : non déclarée.
        carbon: CO₂ de l'électricité, en grammes par kWh ; None : non déclaré.
        out: la page à écrire.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        batch_size: séquences lues ensemble, au plus.
        device: voir `load`.
        force: remplace une page ou un JSON que cette fonction n'a pas écrits.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: réglage hors bornes, modèle quantifié, ou modèles de référence d'un
            modèle affiné ou d'un mélange.
        DataError: données absentes ou mal formées.
        OutputError: un autre fichier a ce nom, ou le disque refuse.

    Examples:
        >>> from gpt_architecture import dossier
        >>> found = dossier("modele", "la-lampe-du-passeur", power=65, carbon=50)
        >>> found.extraction.rows[0].prefix, found.canaries is None
        (4, True)
        >>> found.record["energy"]["power"], found.path.name
        (65, 'dossier.html')
    """
    from gpt_architecture.reports.console import PaceProgress, ProgressBar
    from gpt_architecture.reports.privacy import write_privacy_page
    from gpt_architecture.reports.privacy_facts import Energy, PrivacyPage

    check_int("`batch_size`", batch_size, minimum=1)
    if shadow:
        check_count(shadow)
    for name, value in (("`power`", power), ("`carbon`", carbon)):
        if value is not None:
            check_float(name, value, minimum=0.0)
    folder, asked = folder_of(model), listed(data)
    page_path = (folder or Path()) / PAGE if out is None else Path(out)
    json_path = page_path.with_suffix(".json")
    check_outputs(
        {
            "`out`": (page_path, page_of("privacy")),
            "`out` en JSON": (json_path, json_of("dossier")),
        },
        reads=(source_of(model) if held(model) is None else None, asked),
        force=force,
    )
    gpt = loaded(model, device=device, engine="torch")
    sha256 = weights_sha256(content_of(gpt))
    sources = asked or privacy.default_sources(folder, gpt.metadata)
    notes: dict[str, str] = {}
    with ProgressBar("Dossier", width=40, shown=progress) as bar:

        def advance(name: str, unit: str) -> Callable[[int, int], None]:
            return PaceProgress(bar, name, unit, heading="Dossier")

        canaries = privacy.exposure(gpt, batch_size=batch_size, advance=advance)
        learned = privacy.training_texts(
            gpt, sources, notes, field=field, offline=offline, skip_bad=skip_bad
        )
        extraction = membership = personal = planted = None
        dropped, scanned = 0, (0, 0)
        if learned is not None:
            keep = privacy.kept_extracts(gpt, learned)
            planted = privacy.read_canaries(learned, keep)
            extraction = measure_extraction(
                gpt.model,
                learned.train,
                learned.val,
                window=gpt.window,
                stride=privacy.learned_stride(gpt),
                max_rows=batch_size,
                keep=keep,
                on_progress=advance("Extraction", "tokens"),
            )
            if extraction is None:
                notes["extraction"] = "Non mesuré : aucun extrait lu en entier, et non oublié."
            membership = privacy.membership(
                *(gpt, learned, notes),
                keep=keep,
                shadow=shadow,
                device=device,
                batch_size=batch_size,
                advance=advance,
            )
            told = advance("Données personnelles", "tokens")
            personal, scanned = privacy.remaining_personal(learned, told)
        if len(sources) == 1 and holds_shards(Path(sources[0])):
            personal, dropped = privacy.prepared_personal(Path(sources[0]), personal or [])
    metadata = gpt.metadata
    page = PrivacyPage(
        name="/".join(Path(gpt.name).resolve().parts[-2:]) if gpt.name else "modèle",
        facts=(),
        weights_sha256=sha256,
        canaries=canaries,
        planted=planted,
        extraction=extraction,
        membership=membership,
        sources=privacy.source_texts(sources, metadata),
        personal=personal,
        dropped=dropped,
        scanned=scanned,
        removals=privacy.removed_texts(folder),
        energy=Energy(seconds=finite_number(metadata.get("seconds")), power=power, carbon=carbon),
        notes=notes,
    )
    record = {"generator": PRIVACY_FORMAT, **page.record}
    text = json.dumps(record, ensure_ascii=False, indent=1)
    write_atomically(json_path, lambda new: new.write_text(f"{text}\n", encoding="utf-8"))
    card = card_of(gpt.config, metadata, folder=folder, sha256=sha256)  # il y est déjà cité
    page = replace(page, facts=card.said(0))
    write_privacy_page(page_path, page)
    return Dossier(
        canaries=canaries,
        extraction=extraction,
        membership=membership,
        record=record,
        path=page_path,
        page=page,
    )
