"""D'où viennent les mots d'un texte, au terminal : ses passages, leurs documents, et le hasard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpt_architecture.french import counted, french_number, percent
from gpt_architecture.reports.terminal import visible_text

if TYPE_CHECKING:
    from gpt_architecture.evaluation.provenance import Passage, Place, Provenance


def provenance_lines(found: Provenance) -> Iterator[str]:
    """Les passages, du plus long au plus court, et de quoi en juger."""
    yield chance_line(found)
    if not found.passages:
        yield "Aucun passage assez long pour être montré."
    for passage in found.passages:
        yield ""
        yield f"{heading_of(passage, found)} « {_shown(passage.text)} »"
        for place in passage.places:
            yield f"  {place_line(place)}"
            yield f"    …{_shown(place.before)}⟦{_shown(passage.text)}⟧{_shown(place.after)}…"
        rest = passage.occurrences - len(passage.places)
        if passage.places and rest:
            yield f"  et {french_number(rest)} autre{'s' if rest > 1 else ''} fois."
    if found.found > len(found.passages) > 0:
        yield ""
        rest = found.found - len(found.passages)
        yield f"{counted(rest, 'passage')} plus court{'s' if rest > 1 else ''} ou égal de plus."


def chance_line(found: Provenance) -> str:
    """Ce que le hasard donne, et sur quoi il est mesuré."""
    how = "mesuré sur la part de validation" if found.measured else "estimé, faute de texte inédit"
    return (
        f"{counted(found.tokens, 'token cherché')} parmi "
        f"{french_number(found.training_tokens)}. Hasard : un texte jamais vu de cette taille ne "
        f"partage pas plus de {found.chance} tokens de suite, 95 fois sur 100 ({how})."
    )


def heading_of(passage: Passage, found: Provenance) -> str:
    """« 31 tokens de suite, bien au-delà du hasard (7), 2 fois : »."""
    if not passage.beyond_chance:
        judged = "comme dans un texte jamais vu"
    elif passage.length >= 2 * found.chance:
        judged = f"bien au-delà du hasard ({found.chance})"
    else:
        judged = f"au-delà du hasard ({found.chance})"
    times = f"{french_number(passage.occurrences)} fois"
    return f"{counted(passage.length, 'token')} de suite, {judged}, {times} :"


def place_line(place: Place) -> str:
    """« livre.txt, document 12, token 340 »."""
    where = "" if place.name is None else f"{place.name}, "
    return f"{where}document {french_number(place.document)}, token {french_number(place.offset)}"


def verdict(found: Provenance) -> str:
    """La réponse à « ce texte est-il dans les données ? », en une phrase."""
    size = french_number(found.tokens)
    if found.is_whole and found.is_beyond_chance:
        times = "au moins une fois"
        if found.passages and not found.same_edges:
            times = f"{french_number(found.passages[0].occurrences)} fois"
        return f"Présent : le texte entier ({size} tokens) y est mot pour mot, {times}."
    if found.is_whole:
        return (
            f"Présent, mais trop court pour en juger : ses {size} tokens y sont mot pour mot, et "
            f"le hasard en donne {found.chance}."
        )
    unlearned = ""
    if found.validation:
        share = percent(found.validation / found.tokens)
        unlearned = (
            f" La validation, que le modèle n'a pas apprise, en a "
            f"{french_number(found.validation)} ({share}) mot pour mot."
        )
    if found.is_beyond_chance:
        share = percent(found.covered / found.tokens)
        return (
            f"Présent en partie : {french_number(found.covered)} de ses {size} tokens ({share}) "
            f"sont dans des passages mot pour mot, dont le plus long en compte "
            f"{french_number(found.longest)}.{unlearned}"
        )
    common = (
        f"le plus long passage commun compte {french_number(found.longest)} tokens sur {size}, ce "
        f"que partage un texte jamais vu ({found.chance})."
    )
    if unlearned:
        return f"Dans la validation, non dans l'entraînement : {common}{unlearned}"
    return f"Absent : {common}"


def _shown(text: str) -> str:
    return visible_text(text).replace("\n", "⏎ ")
