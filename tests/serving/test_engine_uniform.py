"""Un modèle compacté : le même texte au bit près, quoi que fassent les autres."""

import pytest
from decoding_helpers import sharp_model
from serving_helpers import TOKENIZER, ask, request, running, submit

from gpt_architecture.decoding.generator import Generator
from gpt_architecture.kernels.decode.packed import pack

STARTS = [
    "a",
    "bonjour",
    "le chat dort, le chien aussi",
    "bonjour, le chat",
    "il pleut, il mouille",
]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def packed(request):
    return pack(sharp_model(context_length=64), request.param)


def requests():
    """Textes gloutons, tirages et filtres, de toutes longueurs ; les probabilités trahissent le
    moindre bit."""
    kinds = [
        {},
        {"strategy": "temperature", "temperature": 1.5, "seed": 1},
        {"strategy": "top_p", "p": 0.9, "seed": 2, "temperature": 2.0},
        {"strategy": "mirostat", "seed": 3},
    ]
    return [request(STARTS[i % 5], max_tokens=2 + i, logprobs=2, **kinds[i % 4]) for i in range(30)]


def written(box):
    return [(piece.token, piece.score) for piece in box.pieces]


@pytest.mark.slow
@pytest.mark.parametrize("slots", [3, 24])
def test_the_load_changes_no_bit(packed, slots):
    """Seules, puis ensemble, puis ensemble encore sur un cache plein de débuts lus."""
    with running(packed, slots=slots) as engine:
        alone = [written(ask(engine, each)) for each in requests()]
    with running(packed, slots=slots, prefill_chunk=5) as engine:
        for _ in range(2):
            boxes = submit(engine, *requests())
            for box, expected in zip(boxes, alone, strict=True):
                box.wait()
                assert written(box) == expected
        assert engine.stats().prefix_hits > 20


class Shallow:
    """Un modèle compacté dont un passage compte moins de tokens."""

    def __init__(self, model, height):
        self._model, self.uniform_rows = model, height

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        return self._model(*args, **kwargs)


@pytest.mark.slow
def test_the_height_of_a_pass_changes_no_bit(packed):
    """Moins haut qu'il n'y a de suites, dont un début plus long que lui ; ou moins de places."""
    texts = []
    for height, slots in ((32, 30), (7, 30), (7, 5), (1, 3)):
        with running(Shallow(packed, height), slots=slots) as engine:
            boxes = submit(engine, *requests())
            texts.append([(box.wait(), written(box))[1] for box in boxes])
    assert all(each == texts[0] for each in texts)


@pytest.mark.slow
def test_the_tokens_are_the_generator_s(packed):
    with running(packed, slots=8) as engine:
        boxes = submit(engine, *requests())
        for box in boxes:
            box.wait()
    generator = Generator(packed, TOKENIZER)  # après l'arrêt : le moteur possède le modèle
    for each, box in zip(requests(), boxes, strict=True):
        (alone,) = generator.generate([list(each.prompt)], each.config)[0]
        assert box.tokens == list(alone.tokens)


@pytest.mark.parametrize("slots", [3, 24])
def test_a_conversation_writes_the_same_with_or_without_the_cache(packed, slots):
    with running(packed, slots=slots) as engine:
        first = ask(engine, request(STARTS[2], max_tokens=10))
        prompt = (*TOKENIZER.encode(STARTS[2]), *first.tokens, *TOKENIZER.encode(" oui"))
        second = ask(engine, request(prompt, max_tokens=9, logprobs=1))
    with running(packed, slots=slots) as engine:
        fresh = ask(engine, request(prompt, max_tokens=9, logprobs=1))
    assert second.events[-1].cached_tokens >= len(STARTS[2])
    assert fresh.events[-1].cached_tokens == 0
    assert written(second) == written(fresh)


def test_prompts_are_scored_whatever_the_cut(packed):
    each = request(STARTS[2], score_prompt=3, generate=False)
    with running(packed, prefill_chunk=64) as engine:
        whole = ask(engine, each).scores
    with running(packed, slots=24, prefill_chunk=3) as engine:
        first, second = submit(engine, each, each)
        first.wait(), second.wait()
    expected = Generator(packed, TOKENIZER).score(STARTS[2], top=3)
    assert whole == first.scores == second.scores
    assert [score.logprob for score in whole[1:]] == pytest.approx(
        [score.logprob for score in expected], abs=1e-3
    )
