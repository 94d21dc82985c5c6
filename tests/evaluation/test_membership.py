"""L'appartenance : des aires exactes, des contrôles à 0,5, et un décalage qui se voit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from decoding_helpers import sharp_model

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.errors import NonFiniteError
from gpt_architecture.evaluation.likelihood import Span, score_spans
from gpt_architecture.evaluation.membership import (
    area,
    blind_scores,
    extract_length,
    judged,
    loss_scores,
    measure_membership,
    min_k_scores,
    reference_scores,
    token_log_probs,
)

RNG = np.random.default_rng(0)


def brute_area(members, others):
    """L'oracle : toutes les paires."""
    return np.mean([(a > b) + 0.5 * (a == b) for a in members for b in others])


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_that_of_all_pairs(ties):
    members, others = RNG.normal(0.5, 1, 40), RNG.normal(0, 1, 31)
    if ties:
        members, others = members.round(), others.round()
    assert area(members, others).value == pytest.approx(brute_area(members, others))


def test_the_interval_covers_as_it_says():
    """De 400 tirages sans différence, 95 % environ ont 0,5 dans leur intervalle."""
    rng = np.random.default_rng(1)
    held = [area(rng.normal(size=60), rng.normal(size=60)).holds_chance for _ in range(400)]
    assert 0.92 <= np.mean(held) <= 0.98
    assert area(np.arange(50.0) + 100, np.arange(50.0)).value == 1.0
    assert area(np.arange(50.0), np.arange(50.0) + 100).value == 0.0
    assert not area(np.arange(50.0) + 100, np.arange(50.0)).holds_chance


def test_it_agrees_with_the_bootstrap():
    members, others = RNG.normal(0.8, 1, 150), RNG.normal(0, 1, 120)
    drawn = [brute_area(RNG.choice(members, 150), RNG.choice(others, 120)) for _ in range(60)]
    low, high = area(members, others).interval
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(drawn), rel=0.35)


def test_token_log_probs_are_those_of_one_at_a_time():
    model = sharp_model(vocab_size=12)
    texts = RNG.integers(0, 12, (7, 10)).tolist()
    fast = token_log_probs(model, texts, max_rows=3)
    assert fast.shape == (7, 9)
    for row, text in zip(fast, texts, strict=True):
        spans = [Span(tokens=text[: n + 2], scored=1) for n in range(9)]
        slow = [each.log_prob for each in score_spans(model, spans)]
        assert row.tolist() == pytest.approx(slow, abs=1e-4)
    with torch.no_grad():
        model.out_head.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError):
        token_log_probs(model, texts)


def test_scores_by_hand():
    log_probs = np.array([[-1.0, -2.0, -3.0, -4.0, -10.0], [-1.0, -1.0, -1.0, -1.0, -1.0]])
    assert loss_scores(log_probs).tolist() == [-4.0, -1.0]
    assert min_k_scores(log_probs).tolist() == [-10.0, -1.0]
    assert min_k_scores(log_probs, 0.4).tolist() == [-7.0, -1.0]
    references = np.array([[-1.0, -4.0], [-3.0, -2.0]])
    inside = np.array([[True, False], [False, True]])
    # lu : −1 et −2 ; pas lu : −3 et −4 ; milieux −2 et −3 ; écarts 2 et 2
    assert reference_scores(np.array([-1.0, -3.5]), references, inside).tolist() == [2.0, -1.0]


def test_references_find_what_difficulty_hides():
    """Des extraits de difficulté très inégale : la perte s'y perd, les modèles de référence non."""
    rng = np.random.default_rng(2)
    count = 300
    hard = rng.normal(0, 3, 2 * count)
    inside = np.array([rng.permutation(np.arange(2 * count) % 2 == 0) for _ in range(8)])
    inside = np.concatenate([inside, ~inside])
    references = hard + 0.5 * inside + rng.normal(0, 0.2, inside.shape)
    member = np.arange(2 * count) < count
    target = hard + 0.5 * member + rng.normal(0, 0.2, 2 * count)
    loss = area(target[:count], target[count:])
    better = reference_scores(target, references, inside)
    reference = area(better[:count], better[count:])
    assert loss.value < 0.6
    assert reference.value > 0.9


def test_reached_at_one_percent_is_exact():
    others = np.arange(200.0)
    members = np.array([197.5, 198.5, 1000.0, 50.0])
    attack = judged("perte", members, others)
    assert attack.reached == 0.75  # deux des 200 autres dépassent 197 : la barre est à 197
    assert attack.reached == np.mean(members > 197)
    assert np.mean(others > 197) == 0.01
    low, high = attack.reached_interval
    assert low < 0.75 < high


def texts(kind, count, rng):
    """Des extraits d'un style : 0, tous les tokens ; 1, les petits surtout."""
    weights = np.ones(30) if kind == 0 else np.linspace(3, 0.1, 30)
    return rng.choice(30, (count, 32), p=weights / weights.sum()).tolist()


@pytest.mark.parametrize("kind", [0, 1])
def test_a_blind_attack_sees_a_shift_and_only_then(kind):
    rng = np.random.default_rng(3)
    members, others = texts(0, 150, rng), texts(kind, 100, rng)
    found = area(*blind_scores(members, others))
    assert found.holds_chance == (kind == 0)
    given = {"perte": rng.normal(size=250), "min-k": rng.normal(size=250)}
    report = measure_membership(given, members, others)
    assert report.shifted == (kind == 1)
    assert [each.name for each in report.attacks] == ["perte", "min-k", "aveugle"]
    assert report.best.name in given
    told = report.to_dict()
    assert (told["members"], told["others"], told["length"]) == (150, 100, 32)
    assert told["attacks"][0]["attack"] == "perte"


def test_a_blind_interval_covers_as_it_says():
    """De 200 tirages sans décalage, 95 % environ ont 0,5 dans leur intervalle."""
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        held.append(area(*blind_scores(texts(0, 100, rng), texts(0, 60, rng))).holds_chance)
    assert 0.9 <= np.mean(held) <= 0.99


def test_controls_hold_chance_and_a_bad_one_is_said():
    """Des moitiés au hasard : la place des extraits n'y fait rien ; un contrôle mauvais est dit."""
    rng = np.random.default_rng(4)
    scores = np.where(np.arange(200) % 2 == 0, 1.0, -1.0) + rng.normal(0, 0.1, 200)
    attack = judged("perte", scores[:100], scores[100:])
    assert attack.good
    bad = area(np.arange(20.0), np.arange(20.0) - 30)
    assert not replace(attack, controls=(bad, attack.controls[1])).good


def test_extracts_shorten_when_unseen_text_is_short():
    assert extract_length(TokenArray(range(100_000)), 256) == 256
    assert extract_length(TokenArray(range(5000)), 256) == 50
    assert extract_length(TokenArray(range(300)), 256) == 16
    assert extract_length(TokenArray(range(300)), 8) == 8
