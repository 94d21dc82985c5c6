"""Une réponse du service refaite de son reçu, et ce qui diffère si ce n'est pas la même."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt_architecture.api.engines import start_engine
from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import held, source_of
from gpt_architecture.api.options import checked_options
from gpt_architecture.api.service import check_serving
from gpt_architecture.errors import ServiceError, on_one_line
from gpt_architecture.formats.door import open_model
from gpt_architecture.french import counted
from gpt_architecture.storage.chain import is_signed, read_public_key

if TYPE_CHECKING:
    from gpt_architecture.api.runs import Run
    from gpt_architecture.serving.context import ServingContext
    from gpt_architecture.serving.identity import Identity
    from gpt_architecture.serving.openai.answers import Answer
    from gpt_architecture.serving.openai.receipts import Receipt

Cause = Literal[
    "reçu",
    "signature",
    "modèle",
    "adaptateur",
    "tokenizer",
    "gabarit",
    "réponse",
    "probabilités",
    "logiciel",
    "arithmétique",
]
"""En quoi un rejeu diffère : le reçu lui-même, ce qui répond, ou ce qui est répondu."""

_STOPS: tuple[Cause, ...] = ("modèle", "adaptateur", "tokenizer", "gabarit")

_ADAPTER = "adaptateur"  # son nom, le temps d'un rejeu
_SHOWN = 300  # caractères d'une phrase faite de ce qu'un reçu dit


@dataclass(frozen=True, kw_only=True)
class ReceiptDifference:
    """Ce qui n'est pas comme le reçu le dit.

    Attributes:
        cause: quoi.
        message: une phrase.
        index: rang du texte ; None : tous.
        position: rang du premier token différent ; None : sans objet.
    """

    cause: Cause
    message: str
    index: int | None = None
    position: int | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Replay:
    """Une réponse refaite.

    Attributes:
        texts: les textes refaits ; vide : rien ne l'a été.
        differences: ce qui n'est pas comme le reçu le dit ; vide : tout est identique.
        notes: ce qu'il faut savoir pour en juger.
        fingerprints: `system_fingerprint` du reçu, et celui d'ici.
    """

    texts: Sequence[str]
    differences: Sequence[ReceiptDifference]
    notes: Sequence[str]
    fingerprints: tuple[str, str]

    @property
    def same(self) -> bool:
        """Vrai si la réponse refaite est celle du reçu, et que rien n'y contredit."""
        return not self.differences

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        return {
            "same": self.same,
            "texts": list(self.texts),
            "differences": [asdict(each) for each in self.differences],
            "notes": list(self.notes),
            "receipt_fingerprint": self.fingerprints[0],
            "system_fingerprint": self.fingerprints[1],
        }

    @property
    def lines(self) -> list[str]:
        """Le verdict, ce qui diffère, et ce qu'il faut savoir."""
        count = counted(len(self.texts), "texte")
        found = [f"Différent, {each.cause} : {each.message}." for each in self.differences]
        if not found:
            found = [f"Identique : {count}, octet pour octet."]
        return [on_one_line(each)[: 2 * _SHOWN] for each in (*found, *self.notes)]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"Replay({self.lines[0]})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [("identique", "oui" if self.same else "non"), ("ici", self.fingerprints[1])]
        return facts_cell("Rejeu d'une réponse", facts, notes=[*self.texts, *self.lines])


@checked_options
def replay(
    receipt: Path | str | Mapping[str, Any],
    model: GPT | Run | Path | str | None = None,
    *,
    device: str = "auto",
    public_key: Path | str | None = None,
    adapter: Path | str | None = None,
) -> Replay:
    """Refait une réponse du service de son reçu, comme `gpt-architecture replay`.

    Args:
        receipt: le reçu, son fichier, ou la réponse entière qui le porte.
        model: le modèle qui a répondu ; None : gpt-model.pt, ici.
        device: voir `load`.
        public_key: clé publique Ed25519 qui doit avoir signé le reçu.
        adapter: l'adaptateur du modèle avec lequel il a répondu ; None : aucun.

    Raises:
        ConfigurationError: ce n'est pas une clé.
        MissingDependencyError: les bibliothèques du service ne sont pas installées.
        ModelFileError: modèle absent ou illisible.
        ReceiptError: ce n'est pas un reçu, ou sa requête ne peut pas être suivie.

    Examples:
        >>> import json
        >>> from urllib.request import Request, urlopen
        >>> from gpt_architecture import load, replay, serve
        >>> gpt = load("modele")
        >>> body = json.dumps({"prompt": "Un soir", "max_tokens": 4, "receipt": True}).encode()
        >>> headers = {"Content-Type": "application/json"}
        >>> with serve(gpt) as service:
        ...     asked = Request(f"{service.api_url}/completions", body, headers)
        ...     answer = json.load(urlopen(asked))
        >>> found = replay(answer["receipt"], gpt)
        >>> found.same, found.texts[0] == answer["choices"][0]["text"]
        (True, True)
    """
    check_serving()
    from gpt_architecture.serving.openai.receipts import Receipt

    key = None if public_key is None else read_public_key(public_key)
    read = Receipt.of(receipt)
    quant = read.identity.facts["model"].get("quant")
    gpt = held(model)
    source = source_of(model) if gpt is None else gpt
    with replaying(source, quant=quant, device=device, adapter=adapter) as context:
        return replayed(context, read, key)


@contextmanager
def replaying(
    model: GPT | Path | str,
    *,
    quant: object = None,
    device: str = "auto",
    adapter: Path | str | None = None,
) -> Iterator[ServingContext]:
    """Un moteur d'un texte à la fois, sans proposition : ce dont `replayed` a besoin.

    Args:
        model: le modèle, ou son fichier.
        quant: quantification de celui qui a répondu, d'après le reçu.
        device: voir `load`.
        adapter: l'adaptateur qui répond ; None : aucun.
    """
    from gpt_architecture.serving.catalogue import Catalogue
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

    known = quant if quant in ("int8", "int4") else None
    if isinstance(model, GPT) or (known and open_model(model).kind == "quantized"):
        known = None  # il l'est déjà, ou ne l'est pas : son empreinte le dira
    engine, context = start_engine(
        model,
        name="rejeu",
        limits=Limits(max_tokens=1 << 24),  # la fenêtre du modèle borne déjà
        fields=FieldPolicy(strict=True),
        slots=1,
        drafts=0,
        device=device,
        quant=None if known is None else str(known),
        adapters=None if adapter is None else {_ADAPTER: adapter},
        max_adapter_rank=4096,
    )
    try:
        engine.wait_started()
        yield Catalogue(context).find(None if adapter is None else _ADAPTER)
    finally:
        engine.stop()


def replayed(context: ServingContext, receipt: Receipt, key: str | None = None) -> Replay:
    """Le verdict d'un reçu, sur un modèle déjà chargé (voir `replaying`).

    Args:
        context: le modèle.
        receipt: le reçu.
        key: clé publique qui doit l'avoir signé.

    Raises:
        ReceiptError: sa requête ne peut pas être suivie.
        GPTArchitectureError: le calcul échoue.
    """
    from gpt_architecture.serving.openai.receipts import replay_answers

    here = None if context.identity is None else context.identity.result()
    if here is None:
        raise ServiceError(
            "l'empreinte du modèle n'a pas pu être calculée",
            expected="un modèle dont les poids se lisent",
            remedy="voyez l'avertissement qui précède",
        )
    differences, notes = _on_receipt(receipt, key)
    others = list(_other_system(receipt, here))
    stops = [each for each in others if each.cause in _STOPS]
    answers: list[Answer] = []
    if stops:
        differences += stops
        notes.append("Rien n'a été recalculé : ce n'est pas ce qui a répondu.")
    else:
        with ThreadPoolExecutor(1) as pool:  # un carnet a déjà sa boucle, dans ce thread
            answers = pool.submit(asyncio.run, replay_answers(context, receipt.body)).result()
        wrong = list(_other_answers(context, receipt.answers, answers))
        differences += wrong
        if wrong:
            differences += others
        notes += [] if wrong else [f"Sans effet ici : {each.message}." for each in others]
        if wrong and not others:
            notes.append(
                "Rien de ce qui répond ne diffère : le reçu ne dit pas ce qui a été écrit."
            )
    fingerprints = str(receipt.content.get("system_fingerprint")), here.fingerprint
    return Replay(
        texts=[each.text for each in answers],
        differences=[replace(each, message=each.message[:_SHOWN]) for each in differences],
        notes=[each[:_SHOWN] for each in notes],
        fingerprints=fingerprints,
    )


def _on_receipt(receipt: Receipt, key: str | None) -> tuple[list[ReceiptDifference], list[str]]:
    """Ce qui cloche dans le reçu lui-même, et ce qu'il faut en savoir."""
    from gpt_architecture.serving.openai.receipts import FORMAT

    found, notes, signature = list[ReceiptDifference](), list[str](), receipt.signature
    if not receipt.is_intact:
        message = "son empreinte n'est pas celle de ce qu'il porte : il a été retouché"
        found.append(ReceiptDifference(cause="reçu", message=message))
    problem = None
    if key is None:
        if signature is not None:
            who = f"{signature['public_key'][:16]}…"
            notes.append(f"Signé par la clé {who}, qui n'est pas vérifiée.")
    elif signature is None:
        problem = "le reçu n'est pas signé"
    elif signature["public_key"] != key:
        problem = "il est signé par une autre clé"
    elif not is_signed(signature, receipt.sha256, FORMAT):
        problem = "la signature n'est pas celle de ce reçu"
    else:
        notes.append("Signature vérifiée.")
    if problem is not None:
        found.append(ReceiptDifference(cause="signature", message=problem))
    return found, notes


def _other_system(receipt: Receipt, here: Identity) -> Iterator[ReceiptDifference]:
    """En quoi ce qui répond ici n'est pas ce qui a répondu."""
    from gpt_architecture.serving.openai.bodies import ChatBody
    from gpt_architecture.serving.openai.receipts import same_section
    from gpt_architecture.training.arithmetic import arithmetic_changes

    then, now = receipt.identity.facts, here.facts
    names: tuple[tuple[str, Cause, str], ...] = (
        ("model", "modèle", "les poids ne sont pas ceux qui ont répondu"),
        ("tokenizer", "tokenizer", "le vocabulaire n'est pas celui du reçu"),
    )
    for name, cause, message in names:
        if then[name].get("sha256") != now[name]["sha256"]:
            told = "".join(
                f", {each.get('quant') or 'fp32'} {where}"
                for each, where in ((then[name], "au reçu"), (now[name], "ici"))
                if name == "model" and then[name].get("quant") != now[name]["quant"]
            )
            yield ReceiptDifference(cause=cause, message=message + told)
    one, two = (each["model"].get("adapter") for each in (then, now))
    if (other := _other_adapter(one, two)) is not None:
        yield ReceiptDifference(cause="adaptateur", message=other)
    template = "chat_template"
    if then["service"].get(template) != now["service"][template] and isinstance(
        receipt.body, ChatBody
    ):
        message = "le gabarit de conversation n'est pas celui du reçu"
        yield ReceiptDifference(cause="gabarit", message=message)
    if not same_section(then, now, "software"):
        versions = (str(each["software"].get("version"))[:40] for each in (then, now))
        message = f"les sources ont changé, version {' puis '.join(versions)}"
        yield ReceiptDifference(cause="logiciel", message=message)
    changes = arithmetic_changes(then["arithmetic"], now["arithmetic"])
    if now["arithmetic"].get("engine") == "torch" and not changes:
        changes = ["PyTorch arrondit selon ce qu'il calcule ensemble"]
    if changes:
        yield ReceiptDifference(cause="arithmétique", message=" ; ".join(changes))


def _other_adapter(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    """En quoi l'adaptateur n'est pas celui du reçu ; None : c'est le même, ou il n'y en a pas."""
    if then is None:
        return None if now is None else "c'est le modèle seul qui a répondu, sans adaptateur"
    if now is None:
        told = f"d'empreinte {then['sha256'][:12]}…"
        return f"c'est un adaptateur {told} qui a répondu : donnez-le aussi"
    return None if then["sha256"] == now["sha256"] else "l'adaptateur n'est pas celui du reçu"


def _other_answers(
    context: ServingContext, told: Sequence[Mapping[str, Any]], found: Sequence[Answer]
) -> Iterator[ReceiptDifference]:
    """En quoi les textes refaits ne sont pas ceux du reçu."""
    if len(told) != len(found):
        message = f"le reçu porte {counted(len(told), 'texte')}, le rejeu {len(found)}"
        yield ReceiptDifference(cause="réponse", message=message)
        return
    for index, (before, answer) in enumerate(zip(told, found, strict=True)):
        now = answer.record()
        one, two = before["tokens"], now["tokens"]
        place = next(
            (i for i, pair in enumerate(zip(one, two, strict=False)) if len({*pair}) > 1), -1
        )
        if place < 0 and len(one) != len(two):
            place = min(len(one), len(two))
        if place >= 0:
            shown = [_named(context, each, place) for each in (one, two)]
            message = f"texte {index}, token {place} : {shown[0]} au reçu, {shown[1]} ici"
            yield ReceiptDifference(cause="réponse", index=index, position=place, message=message)
        elif any(before[name] != now[name] for name in ("sha256", "bytes", "finish_reason")):
            message = f"texte {index} : mêmes tokens, autre texte ou autre fin"
            yield ReceiptDifference(cause="réponse", index=index, message=message)
        elif before["logprobs"] != now["logprobs"]:
            message = f"texte {index} : mêmes tokens, autres probabilités"
            yield ReceiptDifference(cause="probabilités", index=index, message=message)


def _named(context: ServingContext, tokens: Sequence[int], place: int) -> str:
    """Le token d'une place, tel qu'il se lit ; la fin, s'il n'y en a pas."""
    if place >= len(tokens):
        return "la fin"
    token = tokens[place]
    return repr(context.names.text(token)) if token in context.names else f"le token {token}"
