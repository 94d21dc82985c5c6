"""Un texte généré, coupé là où une marque commence ou finit."""

from __future__ import annotations

from collections.abc import Collection

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.streaming import TextStream
from gpt_architecture.evaluation.comparison import VariantResult


def marked_pieces(
    result: VariantResult, places: Collection[int], tokenizer: Tokenizer
) -> list[tuple[str, bool]]:
    """La suite en morceaux (texte, marqué), sans le texte d'arrêt.

    Args:
        result: la génération.
        places: rangs des tokens marqués.
        tokenizer: celui du modèle.
    """
    stream = TextStream(tokenizer.decode, result.prompt_ids)
    left, found = len(result.text), list[tuple[str, bool]]()
    for place, token in enumerate(result.tokens):
        last = place == len(result.tokens) - 1
        text = (stream.push(token) + (stream.finish() if last else ""))[:left]
        left -= len(text)
        if found and found[-1][1] == (place in places):
            found[-1] = (found[-1][0] + text, found[-1][1])
        else:
            found.append((text, place in places))
    return [(text, marked) for text, marked in found if text]
