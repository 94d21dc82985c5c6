"""Le modèle compacté qui propose lui-même : le même texte au bit près, en moins de passages."""

import inspect
import re
from collections import Counter

import pytest
import torch
from decoding_helpers import LetterTokenizer, sharp_model

from gpt_architecture.api import GPT, load
from gpt_architecture.cli.options import ModelChoice
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding import generator as generator_module
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.driver import BatchDecoder
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT, CostPace
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.kernels.decode.packed import pack

TOKENIZER = LetterTokenizer()
PROMPT = "le chat dort, le chat mange"
KINDS = {
    "glouton": {},
    "tirage": {"strategy": "temperature", "temperature": 0.7, "seed": 1},
    "filtres": {"strategy": "top_p", "p": 0.9, "seed": 2, "temperature": 1.5},
    "mirostat": {"strategy": "mirostat", "seed": 3},
    "pénalités": {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    "interdictions": {"banned": ("a", " c"), "no_repeat_ngram": 3, "min_tokens": 9},
    "arrêt": {"stop": (" c",)},
    "au-delà de la fenêtre": {"max_tokens": 130},
}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(generator_module, "_COPY_AFTER", 0)


@pytest.fixture(scope="module")
def packed():
    return pack(sharp_model(context_length=96))


def pieces(model, drafts=5, prompt=PROMPT, tokenizer=TOKENIZER, **settings):
    """Tokens, textes et probabilités, que le moindre bit changerait."""
    settings = {"max_tokens": 50, "ignore_eos": True, "logprobs": 2} | settings
    generator = Generator(model, tokenizer, drafts=drafts)
    return list(generator.stream(prompt, GenerationConfig(**settings)))


def broken(*_):
    raise RuntimeError("quelqu'un a proposé")


def batch_pieces(model, **settings):
    """La même suite, par le lot, qui ne propose rien."""
    config = GenerationConfig(**({"max_tokens": 50, "ignore_eos": True, "logprobs": 2} | settings))
    (sequence,) = Generator(model, TOKENIZER)._continuations(TOKENIZER.encode(PROMPT), config)
    decoder, found = BatchDecoder(model), []
    decoder.add([sequence])
    while decoder.active:
        found += [piece for _, piece in decoder.step()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_the_same_bit_for_bit(packed, kind):
    plain = pieces(packed, drafts=0, **KINDS[kind])
    assert pieces(packed, **KINDS[kind]) == plain == batch_pieces(packed, **KINDS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("lookup", [3, 20])
@pytest.mark.parametrize("kind", ["glouton", "tirage", "filtres"])
def test_so_is_the_one_that_lookup_proposes(packed, kind, lookup):
    """Jusqu'à huit tokens lus ensemble ; au-delà, la vérification arrondit autrement."""
    plain = pieces(packed, drafts=0, **KINDS[kind])
    found = pieces(packed, lookup=lookup, lookup_ngram=1, **KINDS[kind])
    assert [each.token for each in found] == [each.token for each in plain]
    if lookup == 3:
        assert found == plain


@pytest.mark.parametrize("kind", ["glouton", "tirage", "filtres"])
def test_it_takes_fewer_passes(packed, kind, monkeypatch):
    counts = {}
    for drafts in (0, 5):
        before = packed._passes._count
        pieces(packed, drafts=drafts, **KINDS[kind])
        counts[drafts] = packed._passes._count - before
    assert counts[0] >= 50
    assert counts[5] < counts[0] / 2


@pytest.mark.slow
def test_a_constraint_is_followed_token_by_token():
    tokenizer = get_tokenizer("gpt2")
    cfg = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=64, emb_dim=16, n_heads=2, n_layers=1
    )
    torch.manual_seed(0)
    model = pack(GPTModel(cfg).eval())
    settings = {
        **{"prompt": "Le chat", "tokenizer": tokenizer, "ignore_eos": False},
        **{"regex": "( dort,){1,6} fin", "max_tokens": 20, "logprobs": 1},
    }
    found = pieces(model, **settings)
    assert re.fullmatch("( dort,){1,6} fin", "".join(each.text for each in found))
    assert found == pieces(model, drafts=0, **settings)


def test_settling_the_weights_in_the_middle_changes_nothing():
    """Les poids changent de place au 32e passage : la lecture séparée doit les suivre."""
    wanted = pieces(pack(sharp_model(context_length=96)), drafts=0, max_tokens=90)
    assert pieces(pack(sharp_model(context_length=96)), max_tokens=90) == wanted


def lengths_at_drafts(model, monkeypatch):
    """Les longueurs du texte chaque fois que le modèle propose ; la copie a son prix."""
    monkeypatch.setattr(generator_module, "_COPY_AFTER", 128)
    draft, found = model.draft, list[int]()

    def noted(last, cache, *others):
        found.append(cache.length)
        return draft(last, cache, *others)

    monkeypatch.setattr(model, "draft", noted)
    return found


def test_a_short_text_does_not_wait_for_the_copy(packed, monkeypatch):
    drafted = lengths_at_drafts(packed, monkeypatch)
    generator = Generator(packed, TOKENIZER)
    config = GenerationConfig(max_tokens=60, ignore_eos=True)
    counts = []
    for _ in range(4):
        list(generator.stream(PROMPT, config))
        counts.append(len(drafted))
    assert counts[:2] == [0, 0]
    assert counts[2] < counts[3]


@pytest.mark.parametrize("length", [110, 200])
def test_a_long_text_makes_it_after_a_few_words(monkeypatch, length):
    model = pack(sharp_model(context_length=256))
    drafted = lengths_at_drafts(model, monkeypatch)
    config = GenerationConfig(max_tokens=length, ignore_eos=True)
    list(Generator(model, TOKENIZER).stream("le", config))
    assert drafted == [] if length == 110 else 8 <= drafted[0] < 12


def test_drafts_stop_where_none_is_kept_and_come_back():
    pace = CostPace()

    def write(passes, share):
        """Ce qui est proposé à chaque passage d'un texte qui en garde cette part."""
        counts = []
        for _ in range(passes):
            counts.append(pace.count(5))
            if counts[-1]:
                pace.learn(counts[-1], round(share * counts[-1]))
        return counts

    assert write(5, 1)[-1] == 5
    write(20, 0)
    assert Counter(write(64, 0)) == {0: 60, 1: 4}  # un de temps en temps, pour voir
    assert write(400, 1)[-3:] == [5, 5, 5]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_light_model_makes_no_copy(precision, monkeypatch):
    model = pack(sharp_model(context_length=96), precision)
    monkeypatch.setattr(model, "draft", broken)
    assert pieces(model) == pieces(model, drafts=0)


def test_several_texts_at_once_get_none(packed, monkeypatch):
    monkeypatch.setattr(packed, "draft", broken)
    config = GenerationConfig(max_tokens=20, ignore_eos=True)
    assert len(Generator(packed, TOKENIZER).generate([PROMPT, "le chat"], config)) == 2


def test_python_can_do_without(packed, monkeypatch):
    monkeypatch.setattr(packed, "draft", broken)
    settings = {"model": packed, "tokenizer": TOKENIZER, "device": torch.device("cpu")}
    GPT(**settings, drafts=0).generate(PROMPT, max_tokens=20, ignore_eos=True)
    with pytest.raises(RuntimeError, match="proposé"):
        GPT(**settings).generate(PROMPT, max_tokens=20, ignore_eos=True)


@pytest.mark.parametrize("wrong", [-1, 6, 1.5])
def test_a_wrong_count_is_refused(packed, wrong):
    with pytest.raises(ConfigurationError, match="drafts"):
        Generator(packed, TOKENIZER, drafts=wrong)
    with pytest.raises(ConfigurationError, match="drafts"):
        load("absent.pt", drafts=wrong)
    with pytest.raises(ConfigurationError, match="drafts"):
        ModelChoice(drafts=wrong)


def test_the_option_and_python_agree():
    default = inspect.signature(load).parameters["drafts"].default
    assert ModelChoice.drafts == GPT.drafts == default == MAX_SELF_DRAFT
    assert ModelChoice().asked == {"--quant": None, "--drafts": None}
    assert ModelChoice(drafts=0).asked["--drafts"] == 0
