"""Un modèle déposé dans un lieu d'échange, et repris : un dossier partagé, ou le Hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import content_of, held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.formats.door import locate
from gpt_architecture.french import counted, french_size
from gpt_architecture.storage import check_not_read
from gpt_architecture.storage.chain import CERTIFICATE

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run


@dataclass(frozen=True, kw_only=True, repr=False)
class Shared:
    """Ce qui a été déposé, ou repris.

    Attributes:
        place: où.
        files: noms des fichiers.
        bytes: leur taille, en octets.
        certificate: vrai si le certificat de l'entraînement en est.
        verified: vrai si les empreintes du lieu ont été vérifiées ; None : c'est un dépôt.
    """

    place: str
    files: tuple[str, ...]
    bytes: int
    certificate: bool
    verified: bool | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        return {**vars(self), "files": list(self.files)}

    def __str__(self) -> str:
        checked = {True: ", empreintes vérifiées", False: ", sans empreintes", None: ""}
        size = f"{counted(len(self.files), 'fichier')}, {french_size(self.bytes)}"
        kept = "avec" if self.certificate else "sans"
        return f"{self.place} : {size}, {kept} certificat{checked[self.verified]}"

    def __repr__(self) -> str:
        return f"Shared({self})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [
            ("fichiers", str(len(self.files))),
            ("taille", french_size(self.bytes)),
            ("certificat", "oui" if self.certificate else "non"),
        ]
        return facts_cell(self.place, facts, notes=["Fichiers : " + ", ".join(self.files)])


@checked_options
def push(
    model: GPT | Run | Path | str | None,
    place: Path | str,
    *,
    license: str | None = None,
    public: bool = False,
    force: bool = False,
) -> Shared:
    """Dépose un modèle dans un lieu d'échange, comme `gpt-architecture push`.

    Y vont un dossier de Transformers en safetensors, sa fiche, le certificat de l'entraînement s'il
    est à côté du modèle, et les empreintes du tout.

    Args:
        model: modèle chargé, entraînement, ou chemin ; None : gpt-model.pt, ici.
        place: un dossier à créer, ou `hub:AUTEUR/NOM`, seul à demander le réseau.
        license: licence à écrire dans la fiche.
        public: un dépôt du Hub que tous peuvent lire ; sinon, privé.
        force: remplace ce qui y est.

    Raises:
        ConfigurationError: nom mal formé, ou aucun jeton pour écrire sur le Hub.
        MissingDependencyError: huggingface_hub n'est pas installé.
        ModelFileError: modèle absent ou illisible.
        OutputError: lieu pris ou injoignable, ou écriture refusée.

    Examples:
        >>> from gpt_architecture import pull, push
        >>> push("modele", "partage/lampe").certificate
        True
        >>> pull("partage/lampe", "repris").verified
        True
    """
    from gpt_architecture.interop.hub import publish

    source = None if held(model) is not None else locate(source_of(model))
    check_not_read(Path(place), (source,), "`place`")
    content = content_of(model if source is None else source)
    if license is not None:
        content = replace(content, metadata={**content.metadata, "license": license})
    beside = None if source is None else (source if source.is_dir() else source.parent)
    path = None if beside is None else beside / CERTIFICATE
    known = path if path is not None and path.is_file() else None
    files = publish(content, str(place), certificate=known, public=public, force=force)
    return Shared(
        place=str(place),
        files=tuple(name for name, _ in files),
        bytes=sum(size for _, size in files),
        certificate=known is not None,
    )


@checked_options
def pull(place: Path | str, out: Path | str | None = None, *, force: bool = False) -> Shared:
    """Reprend un modèle d'un lieu d'échange, comme `gpt-architecture pull`.

    Seuls des safetensors, des textes et du JSON en sont pris ; les empreintes du lieu, s'il en
    donne, sont vérifiées avant que rien ne prenne son nom.

    Args:
        place: un dossier, ou `hub:AUTEUR/NOM`, seul à demander le réseau.
        out: dossier à créer ; None : le dernier mot du lieu, ici.
        force: remplace un modèle qui y est.

    Raises:
        MissingDependencyError: huggingface_hub n'est pas installé.
        ModelFileError: lieu vide ou injoignable, fichier changé, ou autre chose qu'un GPT-2.
        OutputError: destination prise, ou écriture refusée.

    Examples:
        >>> from gpt_architecture import load, pull, push
        >>> shared = push("modele", "depot")
        >>> again = load(pull("depot", "copie").place)
        >>> again.generate("Le", max_tokens=3) == load("modele").generate("Le", max_tokens=3)
        True
    """
    from gpt_architecture.interop.hub import retrieve

    dest = Path(Path(place).name.removeprefix("hub:") if out is None else out)
    check_not_read(dest, (Path(place),), "`out`")
    verified = retrieve(str(place), dest, force=force)
    files = sorted(dest.iterdir())
    return Shared(
        place=str(dest),
        files=tuple(file.name for file in files),
        bytes=sum(file.stat().st_size for file in files),
        certificate=(dest / CERTIFICATE).is_file(),
        verified=verified,
    )
