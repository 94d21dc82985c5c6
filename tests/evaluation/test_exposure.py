"""L'exposition : le rang exact, l'uniformité des témoins, la fausse alarme bornée."""

import math
from dataclasses import replace

import pytest
import torch
from decoding_helpers import ByteTokenizer, sharp_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.canaries import CanarySet, draw_canaries
from gpt_architecture.errors import ConfigurationError, NonFiniteError
from gpt_architecture.evaluation.canaries import (
    EXPECTED,
    FALSE_ALARM,
    Exposure,
    ExposureReport,
    measure_exposure,
    secret_log_probs,
)
from gpt_architecture.evaluation.likelihood import Span, score_spans

BYTES = ByteTokenizer()
WINDOW = 64
FOUND = draw_canaries(BYTES, 5, 1)


def small(letters=4):
    """Les mêmes canaris, sur un petit alphabet : leurs secrets en sont tirés."""
    units = FOUND.units[:letters]
    secrets = list(CanarySet(canaries=(), controls=(), letters="", units=units).secrets())
    known = [
        replace(each, secret=secrets[number * 7 % len(secrets)])
        for number, each in enumerate((*FOUND.canaries, *FOUND.controls))
    ]
    return CanarySet(
        canaries=tuple(known[:5]), controls=tuple(known[5:]), letters="abcd", units=units
    )


class Uniform:
    """Un modèle qui ne sait rien ; ou qui préfère, à chaque place, un token donné."""

    device = torch.device("cpu")

    def __init__(self, bonus=()):
        self.cfg = GPTConfig(
            vocab_size=257, context_length=WINDOW, emb_dim=1, n_heads=1, n_layers=1
        )
        self.bonus = dict(bonus)

    def __call__(self, in_idx, cache=None):
        logits = torch.zeros(*in_idx.shape, 257)
        for text, token in self.bonus.items():
            for row in range(in_idx.size(0)):
                for end in range(len(text), in_idx.size(1) + 1):
                    if tuple(in_idx[row, end - len(text) : end].tolist()) == text:
                        logits[row, end - 1, token] = 9.0
        return logits


def parrot(canaries):
    """Un modèle qui a retenu ces canaris, et rien d'autre."""
    bonus = {}
    for each in canaries:
        for place, token in enumerate(each.secret):
            bonus[each.prefix[-8:] + each.secret[:place]] = token
    return Uniform(bonus)


def test_scores_are_those_of_the_slow_way():
    """Chaque secret, noté seul, a la log-probabilité de l'énumération."""
    model, canaries = sharp_model(vocab_size=257, context_length=WINDOW), small()
    secrets = list(canaries.secrets())
    prefix = canaries.canaries[0].prefix
    spans = [Span(tokens=(*prefix, *secret), scored=len(secret)) for secret in secrets]
    slow = [each.log_prob for each in score_spans(model, spans)]
    for rows in (1, 5, 64):
        fast = secret_log_probs(model, prefix, secrets, max_rows=rows)
        assert fast.tolist() == pytest.approx(slow, abs=1e-4)
    mixed = [secret[1:] if number % 2 else secret for number, secret in enumerate(secrets)]
    spans = [Span(tokens=(*prefix, *secret), scored=len(secret)) for secret in mixed]
    slow = [each.log_prob for each in score_spans(model, spans)]
    assert secret_log_probs(model, prefix, mixed).tolist() == pytest.approx(slow, abs=1e-4)


def test_ranks_are_exact():
    model, canaries = sharp_model(vocab_size=257, context_length=WINDOW), small()
    report = measure_exposure(model, canaries, window=WINDOW)
    secrets = list(canaries.secrets())
    for each in (*report.planted, *report.controls):
        scores = secret_log_probs(model, each.canary.prefix, secrets)
        own = scores[secrets.index(each.canary.secret)]
        assert each.rank == 1 + int((scores > own).sum())
        assert each.bits == pytest.approx(math.log2(64) - math.log2(each.rank))


def test_a_parrot_is_caught_and_a_blank_model_is_not():
    canaries = small()
    caught = measure_exposure(parrot(canaries.canaries[1:]), canaries, window=WINDOW)
    assert [each.rank for each in caught.planted[1:]] == [1.0] * 4
    assert caught.planted[1].bits == 6.0
    assert caught.found == 4
    assert caught.false_positives == 0
    blank = measure_exposure(Uniform(), canaries, window=WINDOW)
    assert {each.rank for each in (*blank.planted, *blank.controls)} == {32.5}  # tous ex æquo
    assert blank.found == 0


def exposures(ranks, *, repetitions=0, size=17576):
    canary = FOUND.canaries[0]
    return tuple(
        Exposure(canary=replace(canary, repetitions=repetitions), rank=rank, size=size)
        for rank in ranks
    )


def test_false_alarms_are_bounded():
    for count in (1, 4, 8, 16, 17):
        report = ExposureReport(planted=exposures([9] * count), controls=(), size=17576)
        assert report.false_alarm <= FALSE_ALARM
        assert report.threshold == 17576 // (1000 * count)
    crowd = ExposureReport(planted=exposures([9] * 100), controls=(), size=17576)
    assert (crowd.threshold, crowd.false_alarm) == (1, pytest.approx(100 / 17576))


def test_controls_should_be_uniform():
    """Rangs uniformes : la moyenne est celle attendue ; rangs trop bas : contrôle mauvais."""
    size, count = 17576, 2000
    even = exposures([(number + 0.5) * size / count for number in range(count)])
    report = ExposureReport(planted=exposures([1] * 17), controls=even, size=size)
    assert report.controls_bits == pytest.approx(EXPECTED, abs=0.01)
    assert report.controls_good
    low, high = report.controls_interval
    assert low < EXPECTED < high
    assert high - low == pytest.approx(2 * 1.96 * EXPECTED / math.sqrt(count), rel=0.01)
    known = exposures([40 + number for number in range(50)])
    assert not ExposureReport(planted=exposures([1]), controls=known, size=size).controls_good
    read = exposures([1] + [9000] * 30)
    assert not ExposureReport(planted=exposures([1]), controls=read, size=size).controls_good


def test_rows_follow_repetitions():
    planted = exposures([1, 9], repetitions=4) + exposures([800], repetitions=1)
    report = ExposureReport(planted=planted, controls=exposures([5000]), size=17576)
    assert report.threshold == 5
    assert [(row.repetitions, row.found, row.total) for row in report.rows] == [
        (1, 0, 1),
        (4, 1, 2),
    ]
    told = report.to_dict()
    assert told["by_repetition"][1]["found"] == 1
    assert "text" not in str(told)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigurationError, match=r"un canari de \d+ tokens"):
        measure_exposure(Uniform(), FOUND, window=16)
    model = sharp_model(vocab_size=257, context_length=WINDOW)
    with torch.no_grad():
        model.out_head.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"out_head\.weight"):
        measure_exposure(model, small(), window=WINDOW)
