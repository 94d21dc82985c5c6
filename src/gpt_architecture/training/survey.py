"""Ce que les données d'un entraînement disent avant sa première étape : repères, recouvrement…

Les repères sont les pertes que des n-grammes atteignent sur le texte même de la validation. Rien
ici ne tire de nombre au hasard, et tout est borné en mémoire et en temps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.sampler import IGNORED, LabelledSource, PairedSource, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.tokenizer import UNKNOWN
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.protocol import ByteTokenizer, Tokenizer
from gpt_architecture.errors import MissingDependencyError
from gpt_architecture.training.baselines import Baselines, measure_baselines
from gpt_architecture.training.losses import evaluation_starts
from gpt_architecture.training.ngrams import Bools, Ints, KneserNey

if TYPE_CHECKING:
    from gpt_architecture.data.datasets import TrainingData
    from gpt_architecture.training.session import Settings

COUNTED_TOKENS = 1 << 20
"""Tokens d'entraînement que les n-grammes comptent, au plus."""

SCANNED_TOKENS = 1 << 23
"""Tokens d'entraînement où la validation est cherchée, au plus."""

_JUDGED_TOKENS = 1 << 17  # tokens de validation mesurés ou cherchés, au plus
_READ_TOKENS = 1 << 15  # tokens relus comme du texte
_BLOCKS = 64
_PIECES = 8  # morceaux relus comme du texte
_CHUNK = 1 << 20
_PASSAGE_BYTES = 100  # longueur d'un passage commun qui n'est plus une coïncidence
_REFERENCE_VOCABULARY = 4096
_MIN_REFERENCE = (512, 8000)  # vocabulaire et octets en deçà desquels la comparaison ne dit rien
_MIN_HELD = 2000  # tokens de validation en deçà desquels sa ressemblance ne se juge pas
_SMALLEST_SHARE = 0.25
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MOJIBAKE = re.compile("Ã[\u0080-\u00bf¢§¨©ª«®´»¼]|â€|Â[\u00a0«»°]|\ufffd")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Ce que disent les données ; une mesure qui n'a pas de sens ici vaut None.

    Attributes:
        baselines: pertes de repère ; None : rien ne s'apprend.
        learned: part des cibles qui s'apprennent.
        shift: décalage des cibles sur les entrées, en tokens : 1 quand tout va bien ; None : aucun
            ne convient.
        overlap: part de la validation dont les passages sont aussi dans l'entraînement.
        extra_tokens: tokens du texte, en part de ceux d'un petit BPE appris sur lui.
        bytes_per_token: octets de texte que porte un token.
        unknown: part de tokens inconnus.
        garbled: part des mots mal décodés (« Ã© » pour « é »).
        drift: perte d'unigramme sur la validation, moins celle sur un texte d'entraînement laissé
            de côté, en nats.
        order: ce que le token précédent apprend sur ce texte laissé de côté, en part de la perte
            d'unigramme.
        transfer: ce qu'il en reste sur la validation, en part.
    """

    baselines: Baselines | None
    learned: float
    shift: int | None
    overlap: float | None
    extra_tokens: float | None
    bytes_per_token: float
    unknown: float
    garbled: float
    drift: float
    order: float
    transfer: float


UNEXAMINED = Survey(
    baselines=None,
    learned=1.0,
    shift=1,
    overlap=None,
    extra_tokens=None,
    bytes_per_token=1.0,
    unknown=0.0,
    garbled=0.0,
    drift=0.0,
    order=1.0,
    transfer=1.0,
)
"""Ce qu'on retient de données dont l'examen a échoué : aucune faute."""


def survey(data: TrainingData, settings: Settings) -> Survey:
    """Examine les données d'un entraînement, sans rien y changer.

    De paires ou d'exemples étiquetés, rien : ces mesures sont celles d'un texte qui se continue.
    """
    if isinstance(data.train, PairedSource) or data.labelled is not None:
        return UNEXAMINED
    learned, shift = _targets(data.train, settings.window, settings.stride)
    pieces, read = _texts(data.train, data.tokenizer)
    text = "".join(pieces)
    words = max(1, len(text.split()), len(text) // 8)  # certaines langues s'écrivent sans espaces
    bytes_per_token = max(len(text.encode("utf-8", "replace")) / read, 0.1)
    counted = list(_blocks(data.train, COUNTED_TOKENS, _BLOCKS))
    held = np.concatenate([each for each, _ in _blocks(data.val, _READ_TOKENS, _PIECES)])
    held_out = _held_out([each for each, _ in counted], held, data.tokenizer.vocab_size)
    drift, order, transfer = held_out
    return Survey(
        baselines=_baselines(data, settings, counted) if learned > 0 else None,
        learned=learned,
        shift=shift,
        overlap=_overlap(data.train, data.val, round(_PASSAGE_BYTES / bytes_per_token)),
        extra_tokens=_extra_tokens(data.tokenizer, pieces, data.val),
        bytes_per_token=bytes_per_token,
        unknown=text.count(UNKNOWN) / read,
        garbled=len(_MOJIBAKE.findall(text)) / words,
        drift=drift,
        order=order,
        transfer=transfer,
    )


def _texts(source: TokenSource, tokenizer: Tokenizer) -> tuple[list[str], int]:
    """Des morceaux de texte, et les tokens qu'ils comptent.

    Les fins de texte n'en sont pas (elles remplissent aussi les rangées des conversations), ni les
    caractères qu'un bord de morceau coupe.
    """
    pieces, count = list[str](), 0
    for block, _ in _blocks(source, _READ_TOKENS, _PIECES):
        tokens = [each for each in block.tolist() if each != tokenizer.eos_id]
        pieces.append(tokenizer.decode(tokens).strip("\ufffd"))
        count += len(tokens)
    return pieces, max(1, count)


def _blocks(source: TokenSource, limit: int, count: int) -> Iterator[tuple[Ints, Bools]]:
    """Tout le texte, ou `count` morceaux également répartis de `limit` tokens en tout.

    Yields:
        Les tokens d'un morceau, et ceux qui s'apprennent.
    """
    total = source.num_tokens
    length = total if total <= limit else limit // count
    places = [0] if total <= limit else np.linspace(0, total - length, count).astype(int).tolist()
    for place in places:
        tokens = source.read(place, length).numpy()
        yield tokens, _learned(source, place, length)


def _learned(source: TokenSource, start: int, length: int) -> Bools:
    learned: Bools = np.ones(length, bool)
    if isinstance(source, LabelledSource):
        learned = source.read_targets(start, length).numpy() != IGNORED
    return learned


def _targets(source: TokenSource, window: int, stride: int) -> tuple[float, int | None]:
    """La part des cibles qui s'apprennent, et leur décalage, sur quelques fenêtres."""
    starts = np.arange(0, source.num_tokens - window, stride, dtype=np.int64)
    starts = starts[:: max(1, len(starts) // _BLOCKS)]
    if not isinstance(source, LabelledSource):
        inputs, targets = make_batch(source, starts[:1], window)
        learned = 1.0
    else:
        rows = [source.read_targets(int(start) + 1, window).numpy() for start in starts]
        targets_seen = np.stack(rows)
        learned = float(np.mean(targets_seen != IGNORED))
        usable = starts[(targets_seen != IGNORED).any(axis=1)]
        if not usable.size:
            return 0.0, None
        inputs, targets = make_batch(source, usable, window)
    x, y = inputs.numpy(), targets.numpy()
    if x.shape[1] < 2:  # rien ne distingue un décalage d'un autre
        return learned, 1
    reach = min(4, x.shape[1] - 1)
    for shift in sorted(range(-reach, reach + 1), key=lambda each: abs(each - 1)):
        low, high = max(0, -shift), x.shape[1] - max(0, shift)
        own, ahead = y[:, low:high], x[:, low + shift : high + shift]
        judged = own != IGNORED
        if not judged.any() or np.mean(own[judged] == ahead[judged]) > 0.95:
            return learned, shift
    return learned, None


def _baselines(
    data: TrainingData, settings: Settings, counted: Sequence[tuple[Ints, Bools]]
) -> Baselines:
    """Les repères, sur les fenêtres de validation que l'entraînement mesure."""
    window, training = settings.window, settings.training
    count = training.eval_iter * training.batch_size
    starts = evaluation_starts(data.val, window, stride=settings.stride, count=count, shuffle=False)
    starts = starts[:: -(-len(starts) // max(1, _JUDGED_TOKENS // window))]
    return measure_baselines(
        counted,
        np.stack([data.val.read(int(start), window + 1).numpy() for start in starts]),
        np.stack([_learned(data.val, int(start) + 1, window) for start in starts]),
        vocab_size=settings.model.vocab_size,
        total=data.train.num_tokens,
    )


def _overlap(train: TokenSource, val: TokenSource, length: int) -> float | None:
    """La part des passages de validation, longs de `length` tokens, qu'a aussi l'entraînement.

    Elle est estimée quand l'entraînement n'est pas lu en entier.
    """
    size = min(_JUDGED_TOKENS, val.num_tokens)
    length = max(8, min(length, 100))
    if size < 2 * length or train.num_tokens < 2 * length:
        return None
    blocks = list(_blocks(val, size, _BLOCKS))
    hashes = np.concatenate([_hashes(tokens, length) for tokens, _ in blocks])
    ends = np.concatenate([learned[length - 1 :] for _, learned in blocks])
    wanted, places = np.unique(hashes, return_inverse=True)
    found = np.zeros(wanted.size, bool)
    scanned = 0
    for block, _ in _blocks(train, SCANNED_TOKENS, _BLOCKS):
        scanned += block.size
        for start in range(0, block.size, _CHUNK):
            here = _hashes(block[start : start + _CHUNK + length - 1], length)
            spots = np.minimum(np.searchsorted(wanted, here), wanted.size - 1)
            found[spots[wanted[spots] == here]] = True
    share = float(found[places][ends].mean()) if ends.any() else 0.0
    return min(1.0, share / max(scanned / train.num_tokens, _SMALLEST_SHARE))


def _hashes(tokens: Ints, length: int) -> NDArray[np.uint64]:
    """Une empreinte par suite de `length` tokens : Σ t·bʲ modulo 2⁶⁴, b impair."""
    if tokens.size < length:
        return np.empty(0, np.uint64)
    terms = (tokens + 1).astype(np.uint64) * _powers(_BASE, tokens.size)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    passages: NDArray[np.uint64] = sums[length:] - sums[:-length]
    passages *= _powers(_INVERSE, passages.size)
    return passages


def _powers(base: np.uint64, count: int) -> NDArray[np.uint64]:
    """1, b, b², … modulo 2⁶⁴."""
    powers: NDArray[np.uint64] = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    np.cumprod(powers, out=powers)
    return powers


def _extra_tokens(tokenizer: Tokenizer, pieces: Sequence[str], val: TokenSource) -> float | None:
    """Les tokens de la validation, en part de ceux d'un BPE qu'apprend l'entraînement."""
    texts, count = _texts(val, tokenizer)
    size = min(tokenizer.vocab_size, _REFERENCE_VOCABULARY)
    least, octets = _MIN_REFERENCE
    is_small = size < least or sum(map(len, texts)) < octets // 4 or sum(map(len, pieces)) < octets
    if is_small or not isinstance(tokenizer, ByteTokenizer):
        return None
    try:
        reference = BPETokenizer.train(pieces, size, tells=False)
    except MissingDependencyError:
        return None
    return count / max(1, sum(len(reference.encode(text)) for text in texts))


def _held_out(counted: Sequence[Ints], held: Ints, vocab_size: int) -> tuple[float, float, float]:
    """`Survey.drift`, `order` et `transfer` : un morceau sur deux apprend, l'autre juge."""
    tokens = np.concatenate(counted)
    size = max(2, tokens.size // 20)
    parts = [tokens[start : start + size] for start in range(0, tokens.size - 1, size)]
    if len(parts) < 2:
        return 0.0, 1.0, 1.0
    model = KneserNey(parts[::2], vocab_size, order=2)
    beside = np.concatenate(parts[1::2])
    (own, own_bigram), (other, other_bigram) = (
        [float(model.losses(text[None], order=order).mean()) for order in (1, 2)]
        for text in (beside, held)
    )
    gain = own - own_bigram
    order = gain / own if own > 0 else 1.0
    if held.size < _MIN_HELD:  # trop peu pour dire à quoi la validation ressemble
        return 0.0, order, 1.0
    return other - own, order, (other - other_bigram) / gain if gain > 0 else 1.0
