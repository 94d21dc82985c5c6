"""Un entraînement vérifié : son certificat, ses fichiers, et des étapes rejouées."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import source_of
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.errors import CertificateError, ConfigurationError, on_one_line
from gpt_architecture.formats.adapter_file import ADAPTER_NAME
from gpt_architecture.formats.door import open_model
from gpt_architecture.formats.model_file import MODEL_NAME
from gpt_architecture.french import counted, decimal, percent
from gpt_architecture.storage.chain import (
    CERTIFICATE,
    read_chain,
    read_public_key,
)

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run
    from gpt_architecture.formats.story import Difference, Story
    from gpt_architecture.training.audit import Audit


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification:
    """Ce que vaut un certificat.

    Attributes:
        path: le certificat.
        differences: ce qui n'est pas comme il le dit, la première étape d'abord ; vide : conforme.
        notes: ce qu'il faut savoir pour en juger.
        steps: étapes certifiées.
        intervals: étapes rejouées, chacun de la première à la dernière comprise.
        exact: vrai si tout ce qui est rejoué est égal au bit près.
        gap: plus grand écart relatif entre deux pertes, là où les bits diffèrent.
        weights_gap: de même, entre deux tenseurs de poids, en norme ; None : aucun n'a été comparé.
        seed: graine qui a choisi les intervalles ; None : tous l'ont été.
        removal: le retrait en vigueur : tokens retirés de l'entraînement et de la validation,
            empreinte, étape depuis laquelle il vaut ; None : rien n'est retiré.
    """

    path: Path
    differences: Sequence[Difference]
    notes: Sequence[str]
    steps: int
    intervals: Sequence[tuple[int, int]]
    exact: bool
    gap: float
    weights_gap: float | None
    seed: int | None
    removal: Mapping[str, Any] | None = None

    @property
    def conforming(self) -> bool:
        """Vrai si rien ne diffère."""
        return not self.differences

    @property
    def replayed(self) -> int:
        """Nombre d'étapes rejouées."""
        return sum(last - first + 1 for first, last in self.intervals)

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        return {
            "certificate": str(self.path),
            "conforming": self.conforming,
            "exact": self.exact,
            "steps": self.steps,
            "replayed": self.replayed,
            "intervals": [list(each) for each in self.intervals],
            "gap": self.gap,
            "weights_gap": self.weights_gap,
            "seed": self.seed,
            "removal": None if self.removal is None else dict(self.removal),
            "differences": [each.to_dict() for each in self.differences],
            "notes": list(self.notes),
        }

    @property
    def lines(self) -> list[str]:
        """Le verdict, ce qui diffère, et ce qu'il faut savoir."""
        if self.differences:
            found = []
            for each in self.differences:
                where = "" if each.step is None else f" (étape {each.step})"
                if re.search(rf"étape {each.step}\b", each.message):  # la phrase le dit déjà
                    where = ""
                found.append(f"Non conforme, {each.cause}{where} : {each.message}.")
        elif not self.intervals:
            found = ["Conforme pour ce qui se vérifie sans calcul ; rien n'a été rejoué."]
        else:
            how = "au bit près" if self.exact else self._how_near
            share = percent(self.replayed / max(1, self.steps))
            found = [
                f"Conforme, {how} : {counted(self.replayed, 'étape')} sur {self.steps} ({share}), "
                f"{', '.join(f'{first} à {last}' for first, last in self.intervals)}."
            ]
        if self.removal is not None:
            told = self.removal
            found.append(
                f"Retrait en vigueur depuis l'étape {told['step']} : "
                f"{counted(told['tokens'], 'token')} de l'entraînement, {told['val_tokens']} de la "
                f"validation (empreinte {told['sha256'][:16]}…)."
            )
        return [on_one_line(each) for each in (*found, *self.notes)]

    @property
    def _how_near(self) -> str:
        losses = f"pertes à {decimal(100 * self.gap, 4)} % près"
        if self.weights_gap is None:
            return f"{losses}, poids non comparés"
        return f"{losses}, poids à {decimal(100 * self.weights_gap, 4)} % près"

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"Verification({self.lines[0]} {self.path})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [
            ("étapes certifiées", str(self.steps)),
            ("étapes rejouées", str(self.replayed)),
            ("au bit près", "oui" if self.exact else "non"),
        ]
        return facts_cell(f"Certificat : {self.path}", facts, notes=self.lines)


@checked_options
def verify(
    model: GPT | Run | Path | str | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    part: str | float = "5%",
    seed: int | None = None,
    chain_only: bool = False,
    document: str | Sequence[str] = (),
    text: str | Path | Sequence[str | Path] = (),
    certificate: Path | str | None = None,
    public_key: Path | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **sources: Any,
) -> Verification:
    """Vérifie le certificat d'un entraînement, comme `gpt-architecture verify`.

    Args:
        model: le modèle, son dossier, ou l'entraînement qui l'a fait.
        data: les textes de l'entraînement ; None : le corpus connu que ses points de reprise
            nomment, s'ils en nomment un : aucun de leurs chemins n'est ouvert.
        part: part des étapes à rejouer : « 5% », 0.05 ; 1 ou « 100% » : toutes.
        seed: graine qui choisit les intervalles ; None : prise au hasard, et dite.
        chain_only: ne rejoue rien : la chaîne, la signature et les poids seulement.
        document: documents qui doivent être retirés, nommés comme pour `forget`.
        text: fichiers dont le texte doit l'être, partout où il est recopié.
        certificate: le certificat ; None : certificat.json, à côté du modèle.
        public_key: clé publique Ed25519 qui doit avoir signé le dernier maillon.
        on_progress: reçoit les étapes rejouées et leur nombre.
        sources: les autres origines de l'entraînement, nommées comme ses options : `sources`,
            `chat`, `chat_template`, `preferences`, `start`, `distill`, `field`.

    Raises:
        CertificateError: certificat absent ou illisible.
        ConfigurationError: réglage hors bornes, ou clé qui n'en est pas une.
        DataError: les données n'ont pas ce qui doit être retiré.
        ModelFileError: modèle illisible.

    Examples:
        >>> from gpt_architecture import verify
        >>> found = verify("modele", part=1)
        >>> found.conforming, found.exact, found.replayed
        (True, True, 4)
    """
    from gpt_architecture.data.places import Target
    from gpt_architecture.training.audit import Audit

    documents, texts = tuple(listed(document)), tuple(listed(text))
    target = Target(documents=documents, texts=texts) if documents or texts else None
    if target is not None and chain_only:
        raise ConfigurationError.together(
            "`chain_only`", "`text`", expected="les données relues, où chercher ce qui est désigné"
        )
    share = share_of(part)
    folder, product = located(model)
    path = folder / CERTIFICATE if certificate is None else Path(certificate)
    if not path.exists():
        raise CertificateError(
            f"certificat introuvable : {path}",
            expected="celui que « gpt-architecture train » écrit à côté du modèle",
            remedy="corrigez `certificate`, ou rendez-le au dossier",
        )
    key = None if public_key is None else read_public_key(public_key)
    chain = read_chain(path)
    audit = Audit(chain, folder)
    audit.check_signature(key)
    if audit.story.differences and audit.story.differences[0].cause != "inachevé":
        return _concluded(audit, path, None)
    audit.check_product(product)
    audit.check_checkpoints()
    if chain_only:
        return _concluded(audit, path, None)
    seed = secrets.randbits(32) if seed is None else seed
    names = {"sources": "source", "start": "from"}
    origins = {names.get(name, name): getattr(v, "path", v) for name, v in sources.items()}
    given = {"data": data, **origins}
    audit.replay(given, share, seed, on_progress or (lambda done, total: None), target)
    return _concluded(audit, path, None if share >= 1 else seed)


def share_of(part: str | float) -> float:
    """La part que dit « 5% » ou 0.05.

    Raises:
        ConfigurationError: ce n'est pas une part dans ]0, 1].
    """
    try:
        text = str(part).replace(",", ".").strip()
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ConfigurationError.wrong("`part`", part, expected="une part, de 0 à 100 %, comme 5%")
    return share


EXPORTED = "model.safetensors"
"""Les poids d'un dossier de Transformers, que `push` accompagne de leur certificat."""


def located(model: object) -> tuple[Path, Path | None]:
    """Le dossier de l'entraînement, et le fichier de son modèle, s'il y est."""
    source = source_of(model)
    if not source.is_dir():
        file = open_model(source).path
        return file.parent, file
    products = [source / name for name in (MODEL_NAME, ADAPTER_NAME, EXPORTED)]
    return source, next((each for each in products if each.exists()), None)


def _concluded(audit: Audit, path: Path, seed: int | None) -> Verification:
    """Le verdict."""
    from gpt_architecture.training.certificate import code_sha256

    story = audit.story
    if any(f.get("code", {}).get("sha256") != code_sha256() for f in story.facts.values()):
        audit.notes.append("Le code n'est plus celui de l'entraînement (autre version).")
    if seed is not None and audit.outcomes:
        audit.notes.append(f"Intervalles choisis par la graine {seed}.")
    if story.first:
        audit.notes.append(f"Le certificat ne commence qu'à l'étape {story.first}.")
    return Verification(
        path=path,
        differences=sorted(
            audit.differences, key=lambda each: -1 if each.step is None else each.step
        ),
        notes=audit.notes,
        steps=story.last - story.first,
        intervals=[
            (each.first, each.first + outcome.steps - 1)
            for each, outcome in audit.outcomes
            if outcome.steps
        ],
        exact=bool(audit.outcomes) and all(outcome.exact for _, outcome in audit.outcomes),
        gap=max((outcome.gap for _, outcome in audit.outcomes), default=0.0),
        weights_gap=max((o.weights_gap for _, o in audit.outcomes if o.compared), default=None),
        seed=seed,
        removal=_in_force(story),
    )


def _in_force(story: Story) -> dict[str, Any] | None:
    """Ce que dit le certificat du retrait en vigueur ; None : rien n'est retiré."""
    removal = story.removal
    if removal is None or not story.removals:
        return None
    return {
        "tokens": removal.tokens,
        "val_tokens": sum(stop - start for start, stop in removal.val),
        "sha256": removal.sha256,
        "step": story.removals[-1]["step"],
    }
