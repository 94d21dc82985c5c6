"""Ce qu'un certificat raconte : ses maillons suivis un à un, reprises appliquées.

Rien n'y est rejoué ni relu : une étape sautée, un maillon récrit ou deux empreintes qui se
contredisent s'y voient déjà.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpt_architecture.data.removal import Removal, subtracted
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.checkpoint import MAX_STEP
from gpt_architecture.storage.chain import Chain, digest_of

Cause = Literal[
    "chaîne",
    "étape sautée",
    "modèle",
    "point de reprise",
    "réglages",
    "données",
    "tokenizer",
    "retrait",
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
        removal: le retrait en vigueur ; None : rien n'est retiré.
    """

    links: list[dict[str, Any]] = field(default_factory=list)
    first: int = 0
    last: int = 0
    differences: list[Difference] = field(default_factory=list)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    removal: Removal | None = None
    _said: Mapping[str, Any] | None = None  # le même, tel que le certificat l'écrit
    _grown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Vrai si tout se suit, l'entraînement fût-il inachevé."""
        return all(each.cause == "inachevé" for each in self.differences)

    @property
    def removals(self) -> list[dict[str, Any]]:
        """Les maillons qui ont retiré quelque chose, chacun tout ce qui l'est alors.

        Vide si le certificat ne se suit pas : il n'a alors rien montré.
        """
        return self._grown if self.is_sound else []

    def remove(self, link: dict[str, Any], said: Mapping[str, Any] | None) -> None:
        """Le retrait que ce maillon met en vigueur ; un retrait ne peut que croître."""
        if said is self._said:
            return
        before, message = self.removal, None
        try:
            self.removal = None if said is None else Removal.from_dict(said)
        except ConfigurationError:
            message = "un retrait mal formé"
        else:
            if before is not None and not _contains(self.removal, before):
                message = "ce qui était retiré ne l'est plus"
        self._said = said
        if message is not None:
            step = int(link["step"])
            self.differences.append(Difference(cause="retrait", step=step, message=message))
        elif self.removal != before:
            self._grown.append(link)

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
            story.differences.append(_break(chain, broken))
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


def _break(chain: Chain, place: int) -> Difference:
    """Ce qui ne se suit pas au maillon `place`, et l'étape du maillon falsifié."""
    link, message = chain.links[place], f"le maillon {place} a été récrit"
    if link.get("sha256") == digest_of(link):  # il est intact : c'est d'avant lui qu'on a touché
        place -= place > 0
        message = f"le maillon {place} a été récrit, ou un autre ôté ou déplacé à côté de lui"
    step = chain.links[place].get("first", chain.links[place].get("step"))
    if place and chain.links[place]["kind"] != "resume":  # où il devrait être, quoi qu'il dise
        step = end_of(chain.links[place - 1])
    return Difference(cause="chaîne", step=step if type(step) is int else None, message=message)


_FIELDS: dict[str, dict[str, type]] = {
    "start": {"step": int, "identity": dict, "options": dict, "arithmetic": dict, "code": dict},
    "steps": {"first": int, "last": int, "batches": str, "losses": str},
    "weights": {"step": int},
    "resume": {"step": int},
    "removal": {"step": int, "removal": dict},
    "end": {"step": int, "weights": str},
}
"""Les champs sans lesquels un maillon de chaque genre ne se suit pas."""

_TOLD = ("identity", "options", "arithmetic", "code")
_BACK = ("resume", "removal")
"""Les maillons d'où l'on repart, et qui disent ce qui change."""


def _is_whole(link: Mapping[str, Any]) -> bool:
    """Vrai si un maillon a les champs de son genre, et ceux qu'une reprise peut changer."""
    needed = _FIELDS[link["kind"]]
    whole = all(type(link.get(name)) is kind for name, kind in needed.items())
    told = all(isinstance(link.get(name, {}), dict) for name in _TOLD)
    told &= isinstance(link.get("removal"), dict | None)
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
    elif kind in _BACK and step < story.last:
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
    if kind in _BACK:
        story.facts[step] = {**story.facts_at(step), **link}
    if kind in ("start", *_BACK):
        story.remove(link, story.facts[step].get("removal"))
    story.follow(link)


def _contains(removal: Removal | None, before: Removal) -> bool:
    """Vrai si un retrait, des mêmes données, contient celui d'avant."""
    if removal is None:
        return False
    keys = [(each.data, each.tokenizer, each.neutral) for each in (removal, before)]
    left = subtracted(before.train, removal.train) or subtracted(before.val, removal.val)
    return keys[0] == keys[1] and not left


def end_of(link: Mapping[str, Any]) -> int:
    """Nombre d'étapes faites au bout d'un maillon."""
    return int(link["last"]) + 1 if link["kind"] == "steps" else int(link["step"])
