"""Ce qu'un certificat raconte : ses maillons suivis un à un, reprises appliquées.

Rien n'y est rejoué ni relu : une étape sautée, un maillon récrit ou deux empreintes qui se
contredisent s'y voient déjà.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpt_architecture.formats.checkpoint import MAX_STEP
from gpt_architecture.storage.chain import Chain

Cause = Literal[
    "chaîne",
    "étape sautée",
    "modèle",
    "point de reprise",
    "réglages",
    "données",
    "tokenizer",
    "code",
    "arithmétique",
    "pertes",
    "poids",
    "signature",
    "inachevé",
]
"""Pourquoi un certificat n'est pas conforme."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Ce qui n'est pas comme le certificat le dit.

    Attributes:
        cause: sa nature.
        step: première étape où elle se voit, depuis 0 ; None : elle n'est pas d'une étape.
        message: une phrase.
    """

    cause: Cause
    step: int | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        return asdict(self)


@dataclass(kw_only=True)
class Story:
    """Ce que les maillons d'un certificat racontent, reprises appliquées.

    Attributes:
        links: ceux qui valent encore, dans l'ordre : une reprise plus en arrière en défait.
        first: étape où le certificat commence.
        last: étapes faites à la fin.
        differences: ce qui ne se suit pas.
        facts: réglages, données et arithmétique en vigueur à partir de chaque étape.
        digests: empreintes connues des poids, par nombre d'étapes faites.
    """

    links: list[dict[str, Any]] = field(default_factory=list)
    first: int = 0
    last: int = 0
    differences: list[Difference] = field(default_factory=list)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)

    def facts_at(self, step: int) -> dict[str, Any]:
        """Ce qui vaut à l'étape `step`."""
        return self.facts[max((each for each in self.facts if each <= step), default=self.first)]

    def weights_at(self, step: int) -> dict[str, str]:
        """Les empreintes connues après `step` étapes : `weights`, et `moments`."""
        return self.digests.get(step, {})

    def follow(self, link: dict[str, Any]) -> None:
        """Ajoute un maillon qui se suit."""
        self.links.append(link)
        self.last = end_of(link)
        said = {name: link[name] for name in ("weights", "moments") if link.get(name)}
        if said:
            self.digests.setdefault(link["step"], {}).update(said)

    def rewind(self, step: int) -> None:
        """Défait ce qui suit une étape."""
        self.links = [each for each in self.links if end_of(each) <= step]
        self.facts = {at: each for at, each in self.facts.items() if at <= step}
        self.digests = {at: each for at, each in self.digests.items() if at <= step}
        self.last = max((end_of(each) for each in self.links), default=self.first)


def read_story(chain: Chain) -> Story:
    """Suit les maillons d'un certificat ; ne lève rien : ce qui manque est dit.

    Returns:
        `differences` porte la première rupture de la chaîne, ou la première étape qui manque.
    """
    story = Story()
    broken = next(chain.broken(), None)
    try:
        if broken is not None:
            step = chain.links[broken].get("first", chain.links[broken].get("step"))
            message = f"le maillon {broken} a été récrit, ou la chaîne est coupée avant lui"
            known = step if type(step) is int else None
            story.differences.append(Difference(cause="chaîne", step=known, message=message))
            return story
        for place, link in enumerate(chain.links):
            _follow(story, place, link)
            if story.differences:
                return story
    except (KeyError, TypeError, ValueError, AttributeError):
        message = "un maillon n'a pas les champs de son genre"
        story.differences.append(Difference(cause="chaîne", step=None, message=message))
    if story.links and story.links[-1]["kind"] != "end":
        message = f"le certificat s'arrête à l'étape {story.last}, avant la fin de l'entraînement"
        story.differences.append(Difference(cause="inachevé", step=story.last, message=message))
    return story


_FIELDS: dict[str, dict[str, type]] = {
    "start": {"step": int, "identity": dict, "options": dict, "arithmetic": dict, "code": dict},
    "steps": {"first": int, "last": int, "batches": str, "losses": str},
    "weights": {"step": int},
    "resume": {"step": int},
    "end": {"step": int, "weights": str},
}
"""Les champs sans lesquels un maillon de chaque genre ne se suit pas."""

_TOLD = ("identity", "options", "arithmetic", "code")


def _is_whole(link: Mapping[str, Any]) -> bool:
    """Vrai si un maillon a les champs de son genre, et ceux qu'une reprise peut changer."""
    needed = _FIELDS[link["kind"]]
    whole = all(type(link.get(name)) is kind for name, kind in needed.items())
    told = all(isinstance(link.get(name, {}), dict) for name in _TOLD)
    counts = [link.get("arithmetic", {"threads": 1}).get("threads")]
    counts += [link[name] for name, type_ in needed.items() if type_ is int]
    loss = link.get("loss")
    numbers = all(type(each) is int and 0 <= each <= MAX_STEP for each in counts)
    real = loss is None or (type(loss) in (int, float) and abs(loss) <= sys.float_info.max)
    said = all(isinstance(link.get(name), str | None) for name in ("weights", "moments"))
    return whole and told and numbers and real and said


def _follow(story: Story, place: int, link: dict[str, Any]) -> None:
    kind = link["kind"]
    if (kind == "start") != (place == 0) or not _is_whole(link):
        raise ValueError(kind)
    step = int(link["first"] if kind == "steps" else link["step"])
    if kind == "start":
        story.first = story.last = step
        story.facts[step] = link
    elif kind == "resume" and step < story.last:
        story.rewind(step)
    if step != story.last or (kind == "steps" and int(link["last"]) < step):
        message = f"les étapes {story.last} à {step - 1} n'ont pas de maillon"
        if step <= story.last:
            message = f"l'étape {step} a deux maillons"
        story.differences.append(Difference(cause="étape sautée", step=story.last, message=message))
        return
    before = story.weights_at(step)
    if kind != "steps" and any(link.get(name) not in (None, before[name]) for name in before):
        message = f"deux empreintes des poids de l'étape {step} se contredisent"
        story.differences.append(Difference(cause="poids", step=step, message=message))
    if kind == "resume":
        story.facts[step] = {**story.facts_at(step), **link}
    story.follow(link)


def end_of(link: Mapping[str, Any]) -> int:
    """Nombre d'étapes faites au bout d'un maillon."""
    return int(link["last"]) + 1 if link["kind"] == "steps" else int(link["step"])
