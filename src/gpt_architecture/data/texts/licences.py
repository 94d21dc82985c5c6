"""Ce qu'on sait d'un texte par son nom ou son empreinte : titre, licence, langue."""

from __future__ import annotations

from dataclasses import dataclass

from gpt_architecture.data.texts.corpus import SHORT_STORY
from gpt_architecture.data.texts.installed import PACKAGES
from gpt_architecture.data.texts.labelled import KNOWN as LABELLED
from gpt_architecture.data.texts.recipes import NOVELS, RECIPES, VERDICT


@dataclass(frozen=True, kw_only=True)
class KnownText:
    """Un texte connu du projet.

    Attributes:
        name: son nom.
        about: ce que c'est.
        licence: celle du texte.
        language: sa langue, en deux lettres (ISO 639-1).
    """

    name: str
    about: str
    licence: str
    language: str


def _known() -> dict[str, KnownText]:
    found = {
        name: KnownText(
            name=name,
            about=each.about,
            licence=each.licence,
            language="en" if name == VERDICT else "fr",
        )
        for name, each in RECIPES.items()
    }
    found |= {
        each.name: KnownText(name=each.name, about=each.about, licence=each.licence, language="fr")
        for each in PACKAGES
    }
    found[NOVELS] = KnownText(
        name=NOVELS,
        about="neuf romans français, de 1847 à 1885",
        licence="domaine public",
        language="fr",
    )
    found[SHORT_STORY] = KnownText(
        name=SHORT_STORY,
        about="nouvelle écrite pour ce projet",
        licence="MIT",
        language="fr",
    )
    for name in LABELLED:
        about = "messages de clients imaginaires, étiquetés, écrits pour ce projet"
        found[name] = KnownText(name=name, about=about, licence="CC0", language="fr")
    return found


def known_texts(name: str, sha256: str | None = None) -> list[KnownText | None]:
    """Les textes que nomme « a+b », un à un ; None pour celui dont rien n'est connu.

    Args:
        name: nom court de données, tel qu'un entraînement le garde.
        sha256: empreinte du texte entier : elle suffit à reconnaître un texte épinglé renommé.
            Si elle est donnée et n'est pas celle du texte épinglé de ce nom, il n'est pas connu.
    """
    known = _known()
    pinned = {each.sha256: title for title, each in RECIPES.items()}
    if sha256 in pinned:
        return [known[pinned[sha256]]]
    parts = name.split("+")
    if len(parts) == 1 and sha256 is not None and name in RECIPES:
        return [None]
    return [known.get(part) for part in parts]
