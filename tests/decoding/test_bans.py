"""Interdictions : Transformers, calculs à la main, et l'erreur quand rien ne reste."""

import pytest
import torch

from gpt_architecture.decoding import processors
from gpt_architecture.errors import ConfigurationError, GenerationError

INF = float("inf")
VOCAB = 9


def ids(*rows):
    longest = max(len(row) for row in rows)
    return torch.tensor([[-1] * (longest - len(row)) + list(row) for row in rows])


def removed(process, *rows, vocab_size=VOCAB):
    """Tokens interdits à chaque ligne."""
    found = process(ids(*rows), torch.zeros(len(rows), vocab_size))
    return [(row == -INF).nonzero().flatten().tolist() for row in found]


@pytest.fixture
def peer():
    return pytest.importorskip(
        "transformers.generation.logits_process", reason="pair : Transformers absent"
    )


def random_text(rows, length, seed=0):
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(seed))


class TestNoRepeatNgram:
    @pytest.mark.parametrize(
        ("size", "expected"), [(1, [1, 2, 3]), (2, [1, 3]), (3, [3]), (4, []), (9, [])]
    )
    def test_by_hand(self, size, expected):
        assert removed(processors.no_repeat_ngram(size), [1, 2, 3, 2, 1, 1, 2]) == [expected]

    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    @pytest.mark.parametrize("length", [1, 2, 3, 30])
    def test_equals_transformers(self, peer, size, length):
        text, scores = random_text(8, length), torch.randn(8, VOCAB)
        expected = peer.NoRepeatNGramLogitsProcessor(size)(text, scores)
        assert torch.equal(processors.no_repeat_ngram(size)(text, scores), expected)

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_rows_of_various_lengths(self, size):
        rows = [[1, 2, 1, 2, 1], [2], [1, 1]]
        together = removed(processors.no_repeat_ngram(size), *rows)
        assert together == [removed(processors.no_repeat_ngram(size), row)[0] for row in rows]


class TestBanned:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [([1, 2], [4, 5, 8]), ([2], [5, 8]), ([1], [8]), ([2, 1], [8]), ([7, 1, 2], [4, 5, 8])],
    )
    def test_by_hand(self, text, expected):
        process = processors.banned([[8], [2, 5], [1, 2, 4]])
        assert removed(process, text) == [expected]

    def test_equals_transformers(self, peer):
        sequences = [[3], [1, 2], [0, 2], [2, 1, 0], [3, 3, 3, 3, 3, 3]]
        text, scores = random_text(20, 5), torch.randn(20, VOCAB)
        expected = peer.NoBadWordsLogitsProcessor(sequences)(text, scores)
        assert torch.equal(processors.banned(sequences)(text, scores), expected)

    def test_rows_of_various_lengths(self):
        process = processors.banned([[8], [2, 5], [1, 2, 4]])
        assert removed(process, [1, 2], [2], [0, 0, 0, 1, 2]) == [[4, 5, 8], [5, 8], [4, 5, 8]]


class TestMinTokens:
    def test_by_hand(self):
        process = processors.min_tokens(2, prompt_length=3, eos_ids=[5, 7])
        assert removed(process, [0, 0, 0]) == removed(process, [0, 0, 0, 1]) == [[5, 7]]
        assert removed(process, [0, 0, 0, 1, 1]) == [[]]

    @pytest.mark.slow
    @pytest.mark.parametrize("length", [3, 4, 5, 6])
    def test_equals_transformers(self, peer, length):
        text, scores = random_text(4, length), torch.randn(4, VOCAB)
        expected = peer.MinNewTokensLengthLogitsProcessor(3, 2, [5, 7])(text, scores)
        process = processors.min_tokens(2, prompt_length=3, eos_ids=[5, 7])
        assert torch.equal(process(text, scores), expected)


class TestAllowedTokens:
    @pytest.mark.parametrize("shape", [(VOCAB,), (2, VOCAB)])
    def test_only_these(self, shape):
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[..., [2, 4]] = True
        process = processors.allowed_tokens(lambda: mask)
        assert removed(process, [0], [1]) == [[0, 1, 3, 5, 6, 7, 8]] * 2

    def test_the_mask_is_read_at_each_step(self):
        masks = iter([torch.tensor([True, False]), torch.tensor([False, True])])
        process = processors.allowed_tokens(lambda: next(masks))
        assert removed(process, [0], vocab_size=2) == [[1]]
        assert removed(process, [0], vocab_size=2) == [[0]]


class TestNothingLeft:
    """Une interdiction n'est jamais levée en silence."""

    @pytest.mark.parametrize(
        ("process", "name"),
        [
            (processors.no_repeat_ngram(1), "no_repeat_ngram"),
            (processors.banned([[0], [1], [2]]), "banned"),
            (processors.min_tokens(9, prompt_length=1, eos_ids=[0, 1, 2]), "min_tokens"),
            (processors.allowed_tokens(lambda: torch.zeros(3, dtype=torch.bool)), "la contrainte"),
        ],
    )
    def test_is_an_error(self, process, name):
        with pytest.raises(GenerationError, match=f"^{name} ne laisse aucun token"):
            process(ids([0, 1, 2]), torch.zeros(1, 3))

    def test_with_what_was_already_removed(self):
        with pytest.raises(GenerationError):
            processors.banned([[0]])(ids([1]), torch.tensor([[1.0, -INF]]))

    def test_one_row_is_enough(self):
        with pytest.raises(GenerationError):
            processors.no_repeat_ngram(1)(ids([0, 1], [0, 0]), torch.zeros(2, 2))


BANS = {
    "no_repeat_ngram": processors.no_repeat_ngram(2),
    "banned": processors.banned([[8], [1, 2]]),
    "min_tokens": processors.min_tokens(9, prompt_length=1, eos_ids=[0]),
    "contrainte": processors.allowed_tokens(lambda: torch.arange(VOCAB) < 5),
}


@pytest.mark.parametrize("name", BANS)
def test_bans_only_remove_and_are_idempotent(name):
    text, scores = random_text(6, 8), torch.randn(6, VOCAB)
    before = scores.clone()
    found = BANS[name](text, scores)
    assert torch.equal(scores, before)
    assert torch.equal(found[found > -INF], scores[found > -INF])
    assert (found == -INF).any()
    assert torch.equal(BANS[name](text, found), found)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: processors.no_repeat_ngram(0), "no_repeat_ngram vaut 0"),
        (lambda: processors.banned([[]]), "banned contient une suite vide"),
        (lambda: processors.banned([[1, -2]]), "banned vaut -2"),
        (lambda: processors.min_tokens(-1, prompt_length=0, eos_ids=[1]), "min_tokens vaut -1"),
        (lambda: processors.min_tokens(1, prompt_length=-1, eos_ids=[1]), "prompt_length vaut -1"),
        (lambda: processors.min_tokens(1, prompt_length=0, eos_ids=[-1]), "eos_ids vaut -1"),
    ],
)
def test_bad_values_are_refused_at_once(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
