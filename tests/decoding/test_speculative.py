"""Les propositions vérifiées : la suite est exactement celle du modèle seul."""

import itertools
import math
from collections import Counter

import pytest
import torch
from decoding_helpers import LETTERS, LetterTokenizer, sharp_model
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.driver import BatchDecoder
from gpt_architecture.decoding.proposers import DoublingPace, Draft, DraftModel, PromptLookup
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.decoding.simple import generate_text_speculative
from gpt_architecture.decoding.speculative import Speculation, SpeculationStats, SpeculativeDecoder
from gpt_architecture.decoding.strategies import greedy_token, sampled_token
from gpt_architecture.errors import ConfigurationError

TOKENIZER = LetterTokenizer()
PROMPT = "le chat dort, le chat mange, le chat "


class TableModel:
    """Logits lus dans une table (V, V) d'après le dernier token : rapide, et facile à calculer."""

    def __init__(self, table, context_length=64):
        self._table = table
        self.cfg = GPTConfig(
            vocab_size=len(table), context_length=context_length, emb_dim=1, n_heads=1, n_layers=1
        )

    def __call__(self, in_idx, cache=None, *, at=None):
        if cache is not None:
            cache.advance_(in_idx.size(1))
        logits = self._table[in_idx]  # (B, T, V)
        return logits if at is None else logits[torch.arange(len(at)), at].unsqueeze(1)

    @property
    def device(self):
        return torch.device("cpu")

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def alphabet_model(last=None, **options):
    """Récite l'alphabet, en boucle ou jusqu'à `last` : chaque token est sûr."""
    following = (torch.arange(TOKENIZER.vocab_size) + 1) % 26
    if last is not None:
        following[LETTERS.index(last)] = TOKENIZER.eos_id
    return TableModel(20.0 * torch.eye(TOKENIZER.vocab_size)[following], **options)


def random_table(seed):
    """Quatre tokens, des lois quelconques."""
    table = 1.2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
    return TableModel(table, context_length=256)


class RandomProposer:
    """Propose n'importe quoi, certain ou tiré d'une distribution quelconque."""

    def __init__(self, count, *, certain):
        self._count, self._certain = count, certain
        self._generator = torch.Generator().manual_seed(3)

    def pace(self):
        return DoublingPace(self._count)

    def propose(self, sequences, cache, count):
        del cache
        return [self._one(count) for _ in sequences]

    def _one(self, count):
        q = torch.rand(count, TOKENIZER.vocab_size, generator=self._generator).softmax(-1)
        tokens = torch.multinomial(q, 1, generator=self._generator).flatten().tolist()
        return Draft(tokens=tuple(tokens), probabilities=None if self._certain else q)


class LettersOnly:
    """Une contrainte : `count` lettres parmi a, b et c, puis plus rien."""

    def __init__(self, count):
        self._left = count

    def allowed(self):
        return torch.arange(TOKENIZER.vocab_size) < 3

    def advance(self, token):
        assert token < 3
        self._left -= 1

    @property
    def is_complete(self):
        return self._left == 0


def continuation(model, prompt=PROMPT, *, tokenizer=TOKENIZER, constraint=None, **settings):
    config = GenerationConfig(**{"max_tokens": 30, "seed": 11} | settings)
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    size = model.cfg.vocab_size
    return Continuation(ids, config, tokenizer, vocab_size=size, constraint=constraint)


def plain(model, sequence, window=None):
    decoder = BatchDecoder(model, window=window)
    decoder.add([sequence])
    pieces = []
    while decoder.active:
        pieces += [piece for _, piece in decoder.step()]
    return pieces


def speculative(model, sequence, proposer, window=None):
    window = model.cfg.context_length if window is None else window
    decoder = SpeculativeDecoder(model, sequence, proposer, window=window)
    return list(decoder), decoder.stats


@pytest.fixture(scope="module")
def model():
    return sharp_model(context_length=64)


@pytest.fixture(scope="module")
def small():
    return sharp_model(1, context_length=64, n_layers=1)


class TestGreedy:
    """Un choix glouton : les mêmes tokens, un par un."""

    @pytest.mark.slow
    @pytest.mark.parametrize("proposals", ["lookup", "draft", "itself", "noise"])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"repetition_penalty": 1.3},
            {"no_repeat_ngram": 3, "presence_penalty": 0.5},
            {"min_tokens": 20},
            {"ignore_eos": True, "max_tokens": 60},  # au-delà de la fenêtre
            {"strategy": "temperature", "temperature": 0.0},
        ],
        ids=str,
    )
    def test_same_tokens_as_the_model_alone(self, model, small, proposals, settings):
        proposer = {
            "lookup": lambda: PromptLookup(5, ngram=2),
            "draft": lambda: DraftModel(small, 4),
            "itself": lambda: DraftModel(model, 4),
            "noise": lambda: RandomProposer(3, certain=True),
        }[proposals]()
        expected = plain(model, continuation(model, **settings))
        found, stats = speculative(model, continuation(model, **settings), proposer)
        assert [each.token for each in found] == [each.token for each in expected]
        assert "".join(each.text for each in found) == "".join(each.text for each in expected)
        assert found[-1].finish == expected[-1].finish
        assert stats.tokens == len(found) <= stats.passes + stats.accepted

    @pytest.mark.slow
    @pytest.mark.parametrize("prompt", ["a", "le chat", PROMPT])
    @pytest.mark.parametrize("window", [4, 9, 40])
    def test_narrow_windows(self, model, small, prompt, window):
        expected = plain(model, continuation(model, prompt), window)
        for proposer in (PromptLookup(5, ngram=1), DraftModel(small, 3, window=window)):
            found, _ = speculative(model, continuation(model, prompt), proposer, window)
            assert [each.token for each in found] == [each.token for each in expected]

    def test_a_draft_with_a_shorter_context(self, model):
        short = sharp_model(0, context_length=8)
        sequence = continuation(model, "le chat dort", max_tokens=40)
        expected = plain(model, continuation(model, "le chat dort", max_tokens=40))
        found, stats = speculative(model, sequence, DraftModel(short, 3))
        assert [each.token for each in found] == [each.token for each in expected]
        assert stats.proposed > 0

    def test_log_probabilities_are_those_of_the_model_alone(self, model):
        expected = plain(model, continuation(model, logprobs=3))
        found, _ = speculative(model, continuation(model, logprobs=3), PromptLookup(5, ngram=1))
        for mine, reference in zip(found, expected, strict=True):
            assert mine.score.token == mine.token
            assert mine.score.logprob == pytest.approx(reference.score.logprob, abs=1e-4)
            assert [t for t, _ in mine.score.top] == [t for t, _ in reference.score.top]


@pytest.mark.slow
class TestReadableLoop:
    """La boucle en clair, et celle-ci : mêmes tokens, tirages compris, quoi qu'on propose."""

    @staticmethod
    def readable(model, sequence, proposals, window):
        ids = torch.tensor([list(sequence.prompt)])
        wanted = sequence.config
        source = torch.Generator().manual_seed(wanted.seed)
        choose = (
            sampled_token(wanted.temperature, None, source) if wanted.is_sampling else greedy_token
        )
        found = generate_text_speculative(
            model, ids, wanted.max_tokens, window, proposals, choose, count=3, eos_id=30
        )
        return found[0, ids.size(1) :].tolist()

    @staticmethod
    def lookup(tokens, count):
        sequence = continuation(alphabet_model(), list(tokens))
        return list(PromptLookup(3, ngram=1).propose([sequence], None, count)[0].tokens)

    @pytest.mark.parametrize("settings", [{}, {"strategy": "temperature", "temperature": 0.9}])
    @pytest.mark.parametrize("window", [9, 40, 64])
    def test_same_tokens(self, model, settings, window):
        def noise(tokens, count):
            return [(7 * len(tokens) + place) % 31 for place in range(count)]

        settings = settings | {"ignore_eos": True, "stop_ids": (30,)}
        expected = [piece.token for piece in plain(model, continuation(model, **settings), window)]
        for proposals in (self.lookup, noise, lambda tokens, count: []):
            sequence = continuation(model, **settings)
            assert self.readable(model, sequence, proposals, window) == expected
        for proposer in (PromptLookup(3, ngram=1), RandomProposer(3, certain=True)):
            sequence = continuation(model, **settings)
            speculative(model, sequence, proposer, window)
            assert sequence.tokens == expected


class TestEnds:
    """Tout ce qui arrête une suite peut tomber au milieu des tokens acceptés."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"stop": ("mno",)},
            {"stop": ("z",), "max_tokens": 60},
            {"stop_ids": (LETTERS.index("q"),)},
            *({"max_tokens": count} for count in range(1, 12)),
        ],
        ids=str,
    )
    def test_in_the_middle_of_a_draft(self, settings):
        model = alphabet_model()
        prompt = "xyzabcdefghijklmnopqrstuvwxyzabcdef"
        expected = plain(model, continuation(model, prompt, **settings))
        for proposer in (PromptLookup(8), DraftModel(model, 8)):
            sequence = continuation(model, prompt, **settings)
            found, stats = speculative(model, sequence, proposer)
            assert [each.token for each in found] == [each.token for each in expected]
            assert "".join(each.text for each in found) == "".join(e.text for e in expected)
            assert sequence.finish == found[-1].finish == expected[-1].finish
            assert stats.accepted == stats.proposed

    def test_end_of_text(self):
        table = (
            20.0 * torch.eye(TOKENIZER.vocab_size)[(torch.arange(TOKENIZER.vocab_size) + 1) % 26]
        )
        table[LETTERS.index("m")] = 40.0 * torch.eye(TOKENIZER.vocab_size)[TOKENIZER.eos_id]
        model = TableModel(table)
        found, stats = speculative(model, continuation(model, "abcabcd"), DraftModel(model, 20))
        assert "".join(each.text for each in found) == "efghijklm"
        assert found[-1].finish == "stop"
        assert stats == SpeculationStats(proposed=10, accepted=10, passes=1, tokens=10)

    def test_a_constraint(self, model, small):
        expected = plain(model, continuation(model, constraint=LettersOnly(9)))
        for proposer in (PromptLookup(5, ngram=1), DraftModel(small, 4), DraftModel(model, 4)):
            sequence = continuation(model, constraint=LettersOnly(9))
            found, _ = speculative(model, sequence, proposer)
            assert [each.token for each in found] == [each.token for each in expected]
            assert (sequence.finish, len(found)) == ("stop", 9)

    def test_a_constraint_says_nothing_of_later_tokens(self, model):
        """Le masque d'ici et l'interdiction de répéter videraient les propositions d'après."""

        class Spelled(LettersOnly):
            def allowed(self):
                return torch.arange(TOKENIZER.vocab_size) == 3 - self._left

        for settings in ({}, {"no_repeat_ngram": 1}):
            sequence = continuation(model, "zzz", constraint=Spelled(3), **settings)
            found, _ = speculative(model, sequence, DraftModel(model, 4))
            assert "".join(each.text for each in found) == "abc"


class TestCost:
    def test_a_repeated_text_is_copied(self):
        model = alphabet_model(context_length=128)
        prompt = "abcdefghijklmnopqrstuvwxyzabc"
        found, stats = speculative(
            model, continuation(model, prompt, max_tokens=81), PromptLookup(8)
        )
        assert "".join(each.text for each in found)[:5] == "defgh"
        assert (stats.passes, stats.acceptance_rate) == (9, 1.0)
        assert stats.tokens_per_pass == 9.0

    def test_nothing_is_proposed_where_nothing_repeats(self):
        model = alphabet_model()
        found, stats = speculative(
            model, continuation(model, "abc", max_tokens=20), PromptLookup(8)
        )
        assert stats == SpeculationStats(proposed=0, accepted=0, passes=20, tokens=len(found))
        assert stats.acceptance_rate == 0.0
        assert stats.tokens_per_pass == 1.0

    def test_stats_are_written_with_their_rates(self):
        stats = SpeculationStats(proposed=8, accepted=6, passes=4, tokens=10)
        assert stats.to_dict() == {
            **{"proposed": 8, "accepted": 6, "passes": 4, "tokens": 10},
            **{"acceptance_rate": 0.75, "tokens_per_pass": 2.5},
        }

    def test_before_the_first_pass(self):
        nothing = SpeculationStats(proposed=0, accepted=0, passes=0, tokens=0)
        assert nothing.tokens_per_pass == nothing.acceptance_rate == 0.0

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"strategy": "temperature", "temperature": 1.3},
            {"strategy": "sample", "k": 6, "p": 0.9, "repetition_penalty": 1.2},
        ],
        ids=str,
    )
    def test_the_model_itself_is_always_right(self, model, settings):
        sequence = continuation(model, max_tokens=21, ignore_eos=True, **settings)
        _, stats = speculative(model, sequence, DraftModel(model, 4))
        assert stats.accepted == stats.proposed > 0
        assert stats.passes == math.ceil(21 / 5)

    def test_wrong_proposals_become_short(self):
        """Un faux texte : une proposition de plus à chaque passage, et non quatre."""
        model = alphabet_model()

        class Wrong:
            def pace(self):
                return DoublingPace(4)

            def propose(self, sequences, cache, count):
                del cache
                return [Draft(tokens=(29,) * count)] * len(sequences)

        _, stats = speculative(model, continuation(model, "abc", max_tokens=10), Wrong())
        assert stats.accepted == 0
        assert stats.proposed == 4 + 8  # le dernier pas n'a plus qu'un token à produire
        assert stats.passes == 10


@pytest.fixture(scope="module")
def target():
    return random_table(0)


@pytest.fixture(scope="module")
def other():
    return random_table(1)


@pytest.mark.slow
class TestDistribution:
    """Le tirage : après chaque couple de tokens, la loi du suivant est celle du modèle."""

    SETTINGS = (
        {"strategy": "temperature", "temperature": 0.8},
        {"strategy": "sample", "k": 3, "p": 0.95, "repetition_penalty": 1.5, "penalty_window": 2},
    )

    class FourTokens(LetterTokenizer):
        vocab_size = 4
        eos_id = None

    def sequence(self, target, prompt, settings):
        return continuation(target, prompt, tokenizer=self.FourTokens(), **settings)

    def excess(self, target, settings, proposer):
        """Khi-deux des tokens écrits, divisé par sa valeur critique à 1/10 000.

        Les filtres ne regardent que deux tokens, et le modèle un seul : chaque tirage ne
        dépend que des deux tokens qui le précèdent.
        """
        counts = Counter()
        for seed in range(6):
            sequence = self.sequence(target, [0, 1], {**settings, "max_tokens": 250, "seed": seed})
            speculative(target, sequence, proposer())
            ids = [0, 1, *sequence.tokens]
            counts.update(zip(ids, ids[1:], ids[2:], strict=False))
        statistic = freedom = 0.0
        for state in itertools.product(range(4), repeat=2):
            logits = target(torch.tensor([[state[1]]]))[0, -1]
            law = self.sequence(target, list(state), settings).filtered(logits).softmax(-1)
            visits = sum(counts[*state, token] for token in range(4))
            for token, probability in enumerate(law.tolist()):
                seen, expected = counts[*state, token], visits * probability
                assert seen == 0 or probability > 0
                statistic += (seen - expected) ** 2 / expected if expected else 0.0
                freedom += probability > 0
            freedom -= 1
        part = 2 / (9 * freedom)  # Wilson et Hilferty
        return statistic / (freedom * (1 - part + 3.719 * math.sqrt(part)) ** 3)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_prompt_lookup(self, target, settings):
        assert self.excess(target, settings, lambda: PromptLookup(3, ngram=2)) < 1

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_draft_model(self, target, other, settings):
        assert self.excess(target, settings, lambda: DraftModel(other, 3)) < 1

    @pytest.mark.parametrize("proposer", [PromptLookup, DraftModel])
    def test_the_check_sees_a_wrong_rule(self, target, other, monkeypatch, proposer):
        """Accepter toujours : la loi serait celle des propositions."""
        monkeypatch.setattr(
            Speculation, "_chosen", lambda _, draft, place, *__: draft.tokens[place]
        )
        make = {
            PromptLookup: lambda: PromptLookup(3, ngram=2),
            DraftModel: lambda: DraftModel(other, 3),
        }
        assert self.excess(target, self.SETTINGS[0], make[proposer]) > 2

    def test_rejected_certain_proposals_are_never_drawn(self, model):
        """Le remplaçant d'une proposition certaine en diffère toujours."""
        sequence = continuation(model, strategy="temperature", max_tokens=40, ignore_eos=True)
        found, stats = speculative(model, sequence, RandomProposer(3, certain=True))
        assert stats.accepted < stats.proposed
        assert len(found) == 40

    def test_the_seed_decides(self, model, small):
        def tokens():
            sequence = continuation(model, strategy="top_p", temperature=1.2)
            speculative(model, sequence, DraftModel(small, 3))
            return sequence.tokens

        assert tokens() == tokens()


class TestPromptLookup:
    @staticmethod
    def propose(ids, count, ngram):
        sequence = continuation(alphabet_model(), ids)
        return list(PromptLookup(8, ngram=ngram).propose([sequence], None, count)[0].tokens)

    @pytest.mark.slow
    @given(
        st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 8)
    )
    def test_copies_after_the_last_occurrence(self, ids, ngram, count):
        expected = []
        for start in reversed(range(len(ids) - ngram)):
            if ids[start : start + ngram] == ids[-ngram:]:
                copied = list(ids)
                for place in range(count):  # une copie peut se relire elle-même
                    copied.append(copied[start + ngram + place])
                expected = copied[len(ids) :]
                break
        assert self.propose(ids, count, ngram) == expected

    def test_large_ids_are_not_confused(self):
        """Les octets d'un identifiant ne se lisent pas à cheval sur deux."""
        assert self.propose([256, 0, 1], 2, 1) == []
        assert self.propose([256, 1, 0, 65536, 256, 1], 2, 2) == [0, 65536]

    @pytest.mark.parametrize(("count", "ngram"), [(0, 3), (3, 0), (-1, 1)])
    def test_bad_sizes_are_refused(self, count, ngram):
        with pytest.raises(ConfigurationError):
            PromptLookup(count, ngram=ngram)


def test_a_draft_of_no_token_is_refused(model):
    with pytest.raises(ConfigurationError):
        DraftModel(model, 0)
