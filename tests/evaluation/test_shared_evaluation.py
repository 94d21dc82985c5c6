"""Des requêtes partagées entre processus : les chiffres d'un seul, chaque fenêtre lue une fois."""

import json

import pytest
import torch
from distributed_helpers import HERE, run_in_session, torchrun_command
from evaluation.shared_worker import measures

from gpt_architecture.evaluation.likelihood import SpanScore, shared_scores, shared_texts
from gpt_architecture.training.distributed.world import World

WORKER = HERE / "evaluation" / "shared_worker.py"


class Recorder:
    """Le rang d'un groupe qui n'a pas d'autres rangs : rend ce que chacun ajouterait, mis bout."""

    def __init__(self, rank, size):
        self.rank, self.size, self.sent = rank, size, []

    def sum(self, value):
        self.sent.append(value)
        return value


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Ce que mesure chacun de deux rangs gloo."""
    folder = tmp_path_factory.mktemp("rangs")
    paths = (HERE, HERE / "_sans_reseau")
    outcome = run_in_session(
        torchrun_command(WORKER, folder),
        timeout=90,
        env={"PYTHONPATH": ":".join(map(str, paths)), "PYTHONWARNINGS": "error"},
    )
    assert outcome.code == 0, outcome.err
    return [json.loads((folder / f"rang-{rank}.json").read_text("utf-8")) for rank in range(2)]


@pytest.fixture(scope="module")
def single():
    """Ce que mesure un seul processus, d'un seul thread comme les rangs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return json.loads(json.dumps(measures(World())))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_measure_what_one_does(ranks, single):
    """Textes, dernier mot, paires, requêtes de lm-eval, pertes : au bit près, sur chaque rang."""
    for rank in ranks:
        for name in single.keys() - {"fenêtres"}:
            assert rank[name] == single[name], name


@pytest.mark.slow
@pytest.mark.process
def test_each_window_is_read_once(ranks, single):
    """Les rangs se partagent les fenêtres ; un rang sans lot en relit un, qui ne compte pas."""
    windows = single["fenêtres"]
    assert windows == [*range(0, 80, 8), *range(0, 40, 8)]
    first, second = (rank["fenêtres"] for rank in ranks)
    assert first == [*range(0, 24, 8), *range(48, 72, 8), *range(0, 24, 8)]
    assert second == [*range(24, 48, 8), 72, 24, 32]
    assert sorted(first + second) == sorted(windows)


def test_each_rank_fills_its_own_places():
    """Le tableau envoyé est nul ailleurs : la somme est exacte, même pour un rang sans note."""
    scores = [SpanScore(log_prob=-1.5, is_greedy=True), SpanScore(log_prob=-2.0, is_greedy=False)]
    sent = []
    for rank, own in ((0, scores), (1, scores[:1]), (2, [])):
        crew = Recorder(rank, 3)
        shared_scores(crew, [2, 1], own)
        sent += crew.sent
    assert sum(sent).tolist() == [[-1.5, -2.0, -1.5], [1.0, 0.0, 1.0]]
    assert shared_scores(Recorder(0, 1), [2], scores) == scores


def test_texts_come_back_in_order():
    """Accents, textes vides : chacun à sa place."""
    texts = {0: "é", 1: "", 2: "deux"}
    assert shared_texts(Recorder(0, 2), 3, texts) == ["é", "", "deux"]
    assert shared_texts(Recorder(0, 1), 3, texts) == ["é", "", "deux"]
    assert shared_texts(Recorder(0, 2), 0, {}) == []
