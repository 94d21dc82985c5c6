"""La note d'une fin de séquence, contre une boucle token par token ; les intervalles."""

import numpy as np
import pytest
import torch

from gpt_architecture.data.tokenizer import GPT2Tokenizer
from gpt_architecture.errors import DataError, GenerationError
from gpt_architecture.evaluation.likelihood import (
    Span,
    bootstrap_interval,
    continuation_span,
    encode_pair,
    score_spans,
    wilson_interval,
)


def slow_score(model, span):
    """Token par token, une séquence à la fois."""
    log_prob, greedy = 0.0, True
    for place in range(len(span.tokens) - span.scored, len(span.tokens)):
        with torch.no_grad():
            logits = model(torch.tensor([list(span.tokens[:place])]))[0, -1]
        log_prob += logits.log_softmax(-1)[span.tokens[place]].item()
        greedy = greedy and int(logits.argmax()) == span.tokens[place]
    return log_prob, greedy


def codes(text):
    """Un codage lettre par lettre."""
    return [ord(letter) - 97 for letter in text]


def random_spans(count):
    """Des séquences de 2 à 17 tokens, dont de 1 à tous sont notés."""
    generator = torch.Generator().manual_seed(3)
    spans = []
    for _ in range(count):
        length = int(torch.randint(2, 18, (), generator=generator))
        tokens = torch.randint(61, (length,), generator=generator).tolist()
        scored = int(torch.randint(1, length, (), generator=generator))
        spans.append(Span(tokens=tokens, scored=scored))
    return spans


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_the_slow_loop_agrees(tiny_model, rows):
    """Lots de longueurs mêlées : chaque note est celle de la boucle, dans l'ordre donné."""
    spans, done = random_spans(20), []
    scores = score_spans(tiny_model, spans, max_rows=rows, on_progress=done.append)
    for span, score in zip(spans, scores, strict=True):
        log_prob, greedy = slow_score(tiny_model, span)
        assert score.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert score.is_greedy == greedy
    assert sum(done) == sum(span.scored for span in spans)


def test_greedy_text_is_recognised(tiny_model):
    """La suite que le choix glouton écrit est dite gloutonne ; une autre ne l'est pas."""
    tokens = [5, 9]
    for _ in range(4):
        with torch.no_grad():
            tokens.append(int(tiny_model(torch.tensor([tokens]))[0, -1].argmax()))
    other = [*tokens[:-1], (tokens[-1] + 1) % 61]
    scores = score_spans(tiny_model, [Span(tokens=t, scored=4) for t in (tokens, other)])
    assert [score.is_greedy for score in scores] == [True, False]


def test_nothing_to_score(tiny_model):
    (score,) = score_spans(tiny_model, [Span(tokens=[4], scored=0)])
    assert (score.log_prob, score.is_greedy) == (0.0, True)


def test_the_mode_is_given_back(tiny_model):
    tiny_model.train()
    score_spans(tiny_model, [Span(tokens=[4, 5], scored=1)])
    assert tiny_model.training


def test_a_broken_model_is_said(tiny_model):
    with torch.no_grad():
        tiny_model.out_head.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="nan"):
        score_spans(tiny_model, [Span(tokens=[4, 5], scored=1)])


def test_trailing_spaces_go_to_the_continuation():
    """« le chat » + « dort » se code comme le texte entier, l'espace avec le mot."""
    encode = GPT2Tokenizer().encode
    for context, continuation in (("le chat", " dort"), ("le chat ", "dort")):
        given, scored = encode_pair(encode, context, continuation)
        assert given == encode("le chat")
        assert given + scored == encode("le chat dort")


def test_a_long_context_loses_its_start():
    span = continuation_span(codes, "abcdefgh", "ij", prefix=None, window=5)
    assert span == Span(tokens=codes("efghij"), scored=2)


def test_without_context():
    """Notée après le début de texte ; sans lui, depuis le deuxième token."""
    assert continuation_span(codes, "", "abc", prefix=25, window=9).tokens == [25, 0, 1, 2]
    alone = continuation_span(codes, "", "abc", prefix=None, window=9)
    assert alone == Span(tokens=[0, 1, 2], scored=2)


@pytest.mark.parametrize("text", ["abcdef", ""])
def test_a_continuation_must_fit(text):
    with pytest.raises(DataError, match="de 1 à 5 tokens"):
        continuation_span(codes, "xy", text, prefix=None, window=5)


def test_wilson_known_values():
    """8 sur 10 : [0,490 ; 0,943] (Newcombe, 1998) ; jamais hors de [0, 1]."""
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for trials in range(1, 200):  # exactement : « < 0,1 % » se lirait comme une borne
        assert wilson_interval(0, trials)[0] == 0.0
        assert wilson_interval(trials, trials)[1] == 1.0
    assert wilson_interval(5, 5)[1] == 1.0


def test_bootstrap_is_close_to_the_normal_interval():
    """Beaucoup d'unités de même taille : moyenne ± 1,96 erreur type."""
    values = np.random.default_rng(1).normal(3.0, 0.5, size=900)
    low, high = bootstrap_interval(values.tolist(), [1.0] * 900)
    error = 1.96 * values.std(ddof=1) / 30
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_bootstrap_covers_the_truth():
    """Sur 100 échantillons de rapports, l'intervalle contient le vrai rapport 9 fois sur 10."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        weights = generator.integers(1, 100, size=60)
        totals = generator.normal(2.0 * weights, weights**0.5)
        low, high = bootstrap_interval(totals.tolist(), weights.tolist())
        covered += low <= 2.0 <= high
    assert covered >= 88


def test_many_units_are_grouped():
    """10 000 unités : la largeur reste celle de l'erreur type."""
    values = np.random.default_rng(4).normal(0.0, 1.0, size=10_000)
    low, high = bootstrap_interval(values.tolist(), [1.0] * 10_000)
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.15)


def test_the_same_every_time():
    assert bootstrap_interval([1.0, 2.0], [1.0, 1.0]) == bootstrap_interval([1.0, 2.0], [1.0, 1.0])


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_unit_says_nothing(values):
    assert bootstrap_interval(values, [1.0] * len(values)) is None
