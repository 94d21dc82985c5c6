"""Plusieurs adaptateurs dans un moteur : chacun son texte, ensemble ou seul, et jamais mêlés."""

import gc
import weakref
from dataclasses import replace

import pytest
from adapter_helpers import an_adapter, beside, merged
from decoding_helpers import sharp_model
from serving_helpers import TOKENIZER, ask, request, running, submit

from gpt_architecture.core.adapters import follow_adapters_
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.kernels.decode.packed import pack

PROMPT = "le chat dort, le chien aussi"
STARTS = ["a", "bonjour", PROMPT, "bonjour, le chat", "il pleut, il mouille"]
KINDS = [
    {},
    {"strategy": "temperature", "temperature": 1.5, "seed": 1},
    {"strategy": "top_p", "p": 0.9, "seed": 2, "temperature": 2.0},
]


@pytest.fixture(scope="module")
def base():
    return sharp_model(context_length=64)


@pytest.fixture(scope="module")
def files(base):
    return [
        an_adapter(base, 1, rank=2, size=0.4),
        an_adapter(base, 2, rank=5, targets=("query", "value"), size=0.6),
    ]


def written(box):
    return [(piece.token, piece.score) for piece in box.pieces]


def with_adapter(adapter, *args, **options):
    return replace(request(*args, **options), adapter=adapter)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_mixed_load_changes_no_bit(base, files, kind):
    """Seules puis ensemble, sur un cache plein de débuts lus avec d'autres adaptateurs.

    En fp32, le modèle propose ses tokens d'avance, avec l'adaptateur de chacun.
    """
    packed = pack(base, kind)
    adapters = [None, *(beside(base, each) for each in files)]
    asked = [
        with_adapter(
            adapters[i % 3], STARTS[i % 5], max_tokens=3 + i % 6, logprobs=2, **KINDS[i // 5 % 3]
        )
        for i in range(15)
    ]
    with running(packed, slots=5) as engine:
        alone = [written(ask(engine, each)) for each in asked]
    for settings in ({"slots": 5}, {"slots": 12, "prefill_chunk": 5, "drafts": 0}):
        with running(packed, **settings) as engine:
            for _ in range(2):
                boxes = submit(engine, *asked)
                for box, expected in zip(boxes, alone, strict=True):
                    box.wait()
                    assert written(box) == expected


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [True, False], ids=["noyaux", "torch"])
def test_the_text_is_the_merged_model_s(base, files, compiled):
    """En fp32, les mêmes identifiants gloutons que le modèle fondu, sur chaque invite."""
    follow_adapters_(base)
    adapters = [beside(base, each) for each in files]
    with running(pack(base) if compiled else base, slots=4) as engine:
        asked = [(each, start) for each in range(2) for start in STARTS]
        boxes = submit(
            engine, *(with_adapter(adapters[i], start, max_tokens=12) for i, start in asked)
        )
        for box in boxes:
            box.wait()
        plain = [ask(engine, request(start, max_tokens=12)).tokens for start in STARTS]
    generators = [Generator(merged(base, each), TOKENIZER) for each in files]
    different = 0
    for (i, start), box in zip(asked, boxes, strict=True):
        each = request(start, max_tokens=12)
        (alone,) = generators[i].generate([list(each.prompt)], each.config)[0]
        assert box.tokens == list(alone.tokens)
        different += box.tokens != plain[STARTS.index(start)]
    assert different >= 6  # des adaptateurs sans effet ne prouveraient rien


def test_the_prefix_cache_never_mixes_them(base, files):
    """La même invite n'est reprise du cache que si elle y a été lue avec le même adaptateur."""
    first, second = (beside(base, each) for each in files)
    twin = beside(base, files[0])  # les mêmes poids, chargés une autre fois
    with running(pack(base), slots=2, prefix_cache_tokens=64 * 8) as engine:
        cached = []
        for adapter in (None, first, second, twin, first, None, second):
            box = ask(engine, with_adapter(adapter, PROMPT, max_tokens=3))
            cached.append(box.events[-1].cached_tokens)
    assert cached[:4] == [0, 0, 0, 0]
    assert min(cached[4:]) >= len(PROMPT) - 1


def test_two_that_arrive_together_do_not_wait_for_each_other(base, files):
    """Qui lit la même invite avec un autre adaptateur n'attend pas d'en recopier la lecture."""
    adapters = [beside(base, each) for each in files]
    packed = pack(base)
    with running(packed, slots=4, prefill_chunk=4) as engine:
        boxes = submit(engine, *(with_adapter(each, PROMPT, max_tokens=4) for each in adapters * 2))
        ends = [box.wait() for box in boxes]
    assert [end.cached_tokens > 0 for end in ends] == [False, False, True, True]
    with running(packed, slots=4) as engine:
        alone = [ask(engine, with_adapter(each, PROMPT, max_tokens=4)).tokens for each in adapters]
    assert [box.tokens for box in boxes] == alone * 2


def test_one_no_longer_used_leaves_the_memory(base, files):
    """Une demande le garde jusqu'à sa fin ; ensuite, ni le cache ni le pas ne le retiennent."""
    adapter = beside(base, files[0])
    known, expected = weakref.ref(adapter), None
    with running(pack(base), slots=2) as engine:
        expected = ask(engine, with_adapter(adapter, PROMPT, max_tokens=8)).tokens
        (box,) = submit(engine, with_adapter(adapter, PROMPT, max_tokens=8))
        del adapter
        box.wait()
        assert box.tokens == expected
        del box
        ask(engine, request("a", max_tokens=1))  # le moteur a fini de la précédente
        gc.collect()
        assert known() is None


def test_scores_follow_the_adapter(base, files):
    adapter = beside(base, files[0])
    each = request(PROMPT, score_prompt=2, generate=False)
    with running(pack(base)) as engine:
        found = ask(engine, replace(each, adapter=adapter)).scores
        plain = ask(engine, each).scores
    expected = Generator(merged(base, files[0]), TOKENIZER).score(PROMPT, top=2)
    got = [score.logprob for score in found[1:]]
    assert got == pytest.approx([score.logprob for score in expected], abs=1e-3)
    assert got != [score.logprob for score in plain[1:]]
