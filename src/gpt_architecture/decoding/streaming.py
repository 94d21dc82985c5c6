"""Du flux de tokens au flux de texte : ni caractère à moitié, ni texte d'arrêt qui commence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class TextStream:
    """Décode au fil de l'eau : rend le texte nouveau, retient l'UTF-8 incomplet.

    Un caractère peut s'étendre sur plusieurs tokens du BPE par octets : tant que le décodage
    finit par U+FFFD, rien de ce qui manque n'est rendu. Le contexte relu reste borné, si
    bien que le coût par token est constant.

    Args:
        decode: identifiants → texte.
        prompt: identifiants déjà affichés ; ils donnent les espaces justes aux tokenizers
            qui séparent les mots au décodage.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(prompt)
        self._context = max(0, len(self._tokens) - 5)  # début du contexte relu
        self._shown = len(self._tokens)  # tokens dont le texte est déjà rendu

    def push(self, token: int) -> str:
        """Ajoute un token, rend le texte devenu certain (parfois vide)."""
        self._tokens.append(token)
        text = self._pending()
        if text.endswith(_REPLACEMENT):
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def finish(self) -> str:
        """Rend ce qui était retenu, U+FFFD compris."""
        text = self._pending()
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def _pending(self) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        everything = self._decode(self._tokens[self._context :])
        return everything[len(before) :]


class StopMatcher:
    """Cherche des textes d'arrêt dans un flux, et retient ce qui pourrait en être le début.

    Args:
        stops: textes non vides ; le premier trouvé dans le flux l'emporte, le plus long à début
            égal.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Ajoute du texte ; rend ce qui est certain de ne pas appartenir à un arrêt.

        Une fois un arrêt trouvé, `matched` le dit et plus rien n'est rendu.
        """
        if self.matched is not None:
            return ""
        self._held += text
        found = [(start, stop) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            start, self.matched = min(found, key=lambda pair: pair[0])
            certain, self._held = self._held[:start], ""
            return certain
        kept = self._longest_beginning()
        cut = len(self._held) - kept
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """Rend ce qui était retenu : plus rien ne viendra l'achever."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self) -> int:
        """Caractères de la fin qui pourraient commencer un arrêt."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
