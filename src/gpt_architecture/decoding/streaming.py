"""Du flux de tokens au flux de texte, sans jamais montrer un caractère à moitié."""

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
