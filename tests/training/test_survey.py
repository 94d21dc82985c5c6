"""Ce que les données disent avant la première étape."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.training import survey as module
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.losses import LossEvaluator, evaluation_starts
from gpt_architecture.training.preparation import prepare, request_of
from gpt_architecture.training.survey import survey

TINY = {
    **{"data": "la-lampe-du-passeur", "tokenizer": "bpe-400", "context_length": 16},
    **{"emb_dim": 16, "n_heads": 2, "n_layers": 1, "batch_size": 4, "eval_iter": 3},
}


class Labelled:
    """Une suite dont les cibles sont celles que dit `target`."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.num_tokens, self.sha256, self.read = source.num_tokens, source.sha256, source.read

    def read_targets(self, start, length):
        return self.target(self.source, start, length)

    def count_learned(self, starts, window):
        rows = [self.read_targets(int(start) + 1, window) for start in starts]
        return int((torch.stack(rows) != IGNORED).sum())


def shifted(by):
    def target(source, start, length):
        first = min(max(start + by, 0), source.num_tokens - length)
        return source.read(first, length)

    return target


def every(step):
    def target(source, start, length):
        places = torch.arange(start, start + length)
        return torch.where(places % step == 0, source.read(start, length), IGNORED)

    return target


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = {**TINY, "output_dir": tmp_path_factory.mktemp("examen")}
    return prepare(request_of(asked, Origins()))


def examined(run, **parts):
    return survey(replace(run.data, **parts), run.settings)


def tokens(source):
    return source.read(0, source.num_tokens).numpy()


class TestHealthy:
    def test_nothing_odd(self, run):
        found = run.survey
        assert (found.learned, found.shift, found.unknown, found.garbled) == (1.0, 1, 0.0, 0.0)
        assert found.overlap < 0.02
        assert 1 < found.bytes_per_token < 4
        assert abs(found.drift) < 0.5
        assert found.order > 0.1
        assert found.transfer > 0.5

    def test_baselines_are_in_order_and_reproducible(self, run):
        found = run.survey.baselines
        assert found.uniform == math.log(run.settings.model.vocab_size)
        assert found.uniform > found.unigram > found.bigram > found.ngram
        assert found.counted == found.total == run.data.train.num_tokens
        assert survey(run.data, run.settings) == run.survey

    def test_the_windows_are_those_the_training_measures(self, run):
        """Un modèle uniforme, mesuré par l'entraînement, perd ln V sur ces mêmes fenêtres."""
        settings, seen = run.settings, []

        def loss(inputs, targets, _documents):
            seen.append(targets)
            return torch.tensor(0.0)

        window = settings.window
        starts = evaluation_starts(run.data.val, window, stride=None, count=12, shuffle=False)
        sets = [(run.data.val, starts)] * 2
        model = torch.nn.Identity()
        LossEvaluator(model, sets, window=window, batch_size=4, loss=loss)(lambda: False)
        targets = torch.cat(seen[: len(seen) // 2]).numpy()
        model = module.measure_baselines(
            [(tokens(run.data.train), np.ones(run.data.train.num_tokens, bool))],
            np.stack([run.data.val.read(int(start), window + 1).numpy() for start in starts]),
            np.ones(targets.shape, bool),
            vocab_size=settings.model.vocab_size,
            total=run.data.train.num_tokens,
        )
        assert model == run.survey.baselines

    def test_a_window_of_one_token_shows_no_shift(self, run):
        settings = replace(run.settings, window=1)
        assert survey(run.data, settings).shift == 1

    def test_padding_is_not_text(self, run):
        """Des fins de texte qui remplissent les rangées ne changent ni le débit ni les passages."""
        eos = run.data.tokenizer.eos_id

        def padded(source):
            rows = tokens(source)[: source.num_tokens // 20 * 20].reshape(-1, 20)
            ends = np.full_like(rows, eos)
            ids = np.concatenate([rows, ends], axis=1).reshape(-1)

            def target(found, start, length):
                places = torch.arange(start, start + length)
                return torch.where(places % 40 < 20, found.read(start, length), IGNORED)

            return Labelled(TokenArray(ids), target)

        found = examined(run, train=padded(run.data.train), val=padded(run.data.val))
        assert found.bytes_per_token == pytest.approx(run.survey.bytes_per_token, rel=0.1)
        assert found.overlap < 0.02
        assert found.shift == 1

    def test_a_text_without_spaces(self, run):
        """Un caractère coupé au bord d'un morceau n'est pas un mot mal décodé."""
        from gpt_architecture.data.tokenizer import GPT2Tokenizer

        tokenizer = GPT2Tokenizer()
        draw = np.random.default_rng(0).integers(0x4E00, 0x9000, 20_000)
        ids = tokenizer.encode("".join(map(chr, draw)))
        found = examined(run, tokenizer=tokenizer, train=TokenArray(ids))
        assert found.garbled == 0

    def test_no_generator_moves(self, run):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        own = np.random.get_state()[1].copy()
        survey(run.data, run.settings)
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == own).all()


class TestFaults:
    @pytest.mark.parametrize("by", [-1, 1, -2])
    def test_shifted_targets(self, run, by):
        found = examined(run, train=Labelled(run.data.train, shifted(by)))
        assert found.shift == 1 + by

    def test_targets_of_another_text(self, run):
        def target(source, start, length):
            return source.read(source.num_tokens - start - length, length)

        assert examined(run, train=Labelled(run.data.train, target)).shift is None

    def test_masked_targets(self, run):
        val = Labelled(run.data.val, every(50))
        found = examined(run, train=Labelled(run.data.train, every(50)), val=val)
        assert found.learned == pytest.approx(0.02, abs=0.01)
        assert found.shift == 1
        assert found.baselines.counted < run.data.train.num_tokens / 40

    def test_no_target_at_all(self, run):
        nothing = Labelled(run.data.train, lambda _source, _start, n: torch.full((n,), IGNORED))
        found = examined(run, train=nothing)
        assert (found.learned, found.baselines) == (0.0, None)

    def test_overlap_is_the_share_of_the_validation_seen(self, run):
        train, val = tokens(run.data.train), tokens(run.data.val)
        half = val.size // 2
        for part, share in ((val, 1.0), (val[:half], 0.5)):
            both = TokenArray(np.concatenate([train, part]))
            assert examined(run, train=both).overlap == pytest.approx(share, abs=0.1)

    def test_drift(self, run):
        other = TokenArray(np.random.default_rng(0).integers(0, 400, 4000))
        found = examined(run, val=other)
        assert found.drift > 1
        assert found.transfer < 0.3

    def test_a_tiny_validation_is_not_judged(self, run):
        """Trente-huit tokens d'un autre texte ne disent pas qu'il ne ressemble pas."""
        tiny = TokenArray(np.random.default_rng(0).integers(0, 400, 38))
        found = examined(run, val=tiny)
        assert (found.drift, found.transfer) == (0.0, 1.0)

    def test_the_reference_vocabulary_says_nothing(self, run, caplog):
        """Le petit BPE de comparaison n'est pas celui qu'on a demandé."""
        tokenizer = get_tokenizer("gpt2")
        text = run.data.tokenizer.decode(tokens(run.data.train).tolist())
        with caplog.at_level("INFO"):
            encoded = TokenArray(tokenizer.encode(text))
            assert module._extra_tokens(tokenizer, [text], encoded) > 1
        assert "pas de quoi former" not in caplog.text

    def test_shuffled_tokens(self, run):
        shuffled = np.random.default_rng(0).permutation(tokens(run.data.train))
        assert examined(run, train=TokenArray(shuffled)).order < 0.03

    def test_garbled_text(self, run, tmp_path):
        text = run.data.tokenizer.decode(tokens(run.data.train).tolist())
        path = tmp_path / "abime.txt"
        path.write_text(text.encode().decode("cp1252", "replace"), encoding="utf-8")
        asked = {**TINY, "data": str(path), "output_dir": tmp_path}
        assert prepare(request_of(asked, Origins())).survey.garbled > 0.02

    def test_a_vocabulary_of_another_language(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_MIN_REFERENCE", (300, 4000))
        assert examined(run).extra_tokens < 1.1
        english = "the quick brown fox jumps over the lazy dog and then she said nothing " * 400
        from gpt_architecture.data.tokenizers.bpe import BPETokenizer

        other = BPETokenizer.from_text(english, 400)
        text = run.data.tokenizer.decode(tokens(run.data.train).tolist())
        held = run.data.tokenizer.decode(tokens(run.data.val).tolist())
        found = examined(
            run,
            tokenizer=other,
            train=TokenArray(other.encode(text)),
            val=TokenArray(other.encode(held)),
        )
        assert found.extra_tokens > 1.2


class TestBounds:
    def test_the_whole_validation_is_searched(self, run, monkeypatch):
        """Ce qui se répète à la fin, dans la dernière source d'un mélange, se voit aussi."""
        train, val = tokens(run.data.train), tokens(run.data.val)
        second = np.concatenate([val, train[: val.size]])
        monkeypatch.setattr(module, "_JUDGED_TOKENS", val.size)
        monkeypatch.setattr(module, "_READ_TOKENS", val.size)
        monkeypatch.setattr(module, "_BLOCKS", 4)
        monkeypatch.setattr(module, "_MIN_HELD", 100)
        found = examined(run, val=TokenArray(second))
        assert found.overlap == pytest.approx(0.5, abs=0.15)
        other = np.random.default_rng(0).integers(0, 400, val.size)
        assert examined(run, val=TokenArray(np.concatenate([val, other]))).drift > 0.5

    def test_a_long_text_is_sampled_and_it_is_said(self, run, monkeypatch):
        monkeypatch.setattr(module, "COUNTED_TOKENS", 1024)
        monkeypatch.setattr(module, "_BLOCKS", 8)
        found = examined(run).baselines
        assert (found.counted, found.total) == (1024, run.data.train.num_tokens)
        assert found.bigram > run.survey.baselines.bigram

    def test_a_partial_scan_estimates_the_overlap(self, run, monkeypatch):
        train, val = tokens(run.data.train), tokens(run.data.val)
        copies = -(-train.size // val.size)
        both = TokenArray(np.concatenate([train, *[val] * copies]))
        monkeypatch.setattr(module, "SCANNED_TOKENS", both.num_tokens // 2)
        monkeypatch.setattr(module, "_BLOCKS", 4)
        assert examined(run, train=both).overlap > 0.5
