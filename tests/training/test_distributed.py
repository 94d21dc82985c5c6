"""Deux processus comme un seul : DDP, FSDP2, morceaux sur disque, à travers torchrun."""

import json

import pytest
import torch
from distributed_helpers import HERE, STEPS, run_in_session, small_model, torchrun_command
from objective_helpers import courses, write_sources
from safetensors.torch import save_file
from training.parallel_worker import groups_of, optimizer_of, train

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.distributed.group import (
    Place,
    Watchdog,
    distributed_world,
    is_lost_peer,
)
from gpt_architecture.training.distributed.parallel import ParallelModel
from gpt_architecture.training.distributed.store import whole_tensors
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.optim import load_optimizer_, optimizer_tensors
from gpt_architecture.training.step import AutogradEngine

WORKER = HERE / "training" / "parallel_worker.py"
RUNS = [(strategy, tied) for strategy in ("ddp", "fsdp") for tied in (False, True)]
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "3",
}


def key_of(strategy, tied):
    return f"{strategy}-{'lié' if tied else 'livre'}"


def two_ranks(action, folder):
    """Lance l'action sur deux rangs gloo ; rend leurs résultats."""
    paths = (HERE, HERE / "_sans_reseau")
    outcome = run_in_session(
        torchrun_command(WORKER, action, folder),
        timeout=90,
        env={"PYTHONPATH": ":".join(map(str, paths)), "PYTHONWARNINGS": "error"},
    )
    assert outcome.code == 0, outcome.err
    name = {"save": "rang", "resume": "reprise", "objectives": "objectifs"}[action]
    return [
        json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8"))
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deux-rangs")


@pytest.fixture(scope="module")
def ranks(folder):
    return two_ranks("save", folder)


@pytest.fixture(scope="module")
def single():
    """Un seul processus : pertes et normes, modèle et optimiseur après STEPS étapes, suite."""
    runs = {}
    for tied in (False, True):
        model = small_model(tied=tied)
        optimizer, engine = optimizer_of(model), AutogradEngine(model, "cpu")
        curve = train(engine, model, optimizer, World())
        state = {
            group: {name: tensor.clone() for name, tensor in content.items()}
            for group, content in groups_of(model, optimizer).items()
        }
        after = train(engine, model, optimizer, World(), first=STEPS, steps=2)
        runs[tied] = (curve, state, after)
    return runs


def flat(curve):
    return torch.tensor(curve, dtype=torch.float64).flatten()


def assert_same_curve(found, expected):
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-5, atol=1e-6)


# --- Les échanges ---------------------------------------------------------------------------


@pytest.mark.slow
def test_exchanges_agree_on_every_rank(ranks):
    for rank, results in enumerate(ranks):
        found = results["exchanges"]
        assert found["mean"] == [1.5, 3.0]
        assert found["kept"] == [rank + 1.0, 3.0]
        assert found["any"] == [True, False]
        assert found["broadcast"] == [2.0, 3.0]
        assert found["place"] == [rank, 2, rank, "cpu"]


def test_place_reads_what_torchrun_says():
    place = Place.from_environment(TORCHRUN)
    assert (place.rank, place.size, place.local_rank, place.local_size) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": None}, "RANK"),
        ({"WORLD_SIZE": "deux"}, "deux"),
        ({"RANK": "2"}, "RANK"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
    ],
)
def test_place_refuses_anything_else(change, words):
    values = {k: v for k, v in {**TORCHRUN, **change}.items() if v is not None}
    with pytest.raises(ConfigurationError, match=words):
        Place.from_environment(values)


def test_world_refuses_no_time_at_all(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="timeout_s"), distributed_world(0, device="cpu"):
        pass


def test_only_broken_exchanges_are_lost_peers():
    assert is_lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert is_lost_peer(torch.distributed.DistNetworkError("…"))
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_peer(ValueError("Connection closed by peer"))


def test_watchdog_fires_only_without_beats():
    """Le délai court du dernier battement ; une fois l'alarme donnée, elle l'est une fois."""
    said = []
    with Watchdog(0.2, name="le processus 0", on_expiry=said.append) as watchdog:
        watchdog._thread.join(timeout=10)
    assert len(said) == 1
    assert "le processus 0 n'avance plus depuis 0,2 s" in said[0]

    quiet = []
    with Watchdog(30, name="x", on_expiry=quiet.append) as watchdog:
        watchdog.beat()
    assert quiet == []


# --- Les mêmes pertes -----------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "tied"), RUNS)
def test_two_processes_learn_as_one(ranks, single, strategy, tied):
    """Pertes et normes du gradient, accumulation et réduction comprises, à 1e-5 près."""
    for results in ranks:
        assert_same_curve(results[key_of(strategy, tied)], single[tied][0])
    assert ranks[0][key_of(strategy, tied)] == ranks[1][key_of(strategy, tied)]


def test_gradients_averaged_afterwards_are_the_same(ranks, single):
    """Un moteur hors d'autograd échange après coup, par tranches, et apprend pareil."""
    for results in ranks:
        assert_same_curve(results["moyenne"], single[False][0])


@pytest.mark.parametrize(("strategy", "tied"), RUNS)
def test_whole_model_has_the_same_names_and_weights(ranks, single, folder, strategy, tied):
    del ranks
    whole = torch.load(folder / f"{key_of(strategy, tied)}.pt", weights_only=True)
    expected = single[tied][1]["model"]
    assert list(whole) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-4, atol=1e-5)
    if tied:
        assert whole["out_head.weight"].data_ptr() == whole["tok_emb.weight"].data_ptr()


def test_accumulated_batches_exchange_once(ranks):
    assert [results["reductions"] for results in ranks] == [[0, 1], [0, 1]]


def test_place_leaves_a_whole_model_alone():
    model = small_model()
    state = model.state_dict()
    placed = ParallelModel(model, model).place(state)
    assert all(placed[name] is state[name] for name in state)


@pytest.mark.slow
def test_two_processes_judge_prefer_and_distill_as_one(tmp_path):
    """Tête de classe, paires et professeur, poids répliqués ou répartis : pertes et évaluations."""
    write_sources(tmp_path)
    alone = courses(tmp_path)
    for results in two_ranks("objectives", tmp_path):
        for strategy, found in results.items():
            assert found.keys() == alone.keys(), strategy
            for name, expected in alone.items():
                assert_same_curve(found[name], expected)


# --- Les morceaux ---------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_two_ranks_write_what_one_reads(ranks, single, folder, tied):
    """Morceaux et fichiers réunis : les poids d'avant la suite, et l'optimiseur."""
    place = folder / f"fsdp-{'lié' if tied else 'livre'}-morceaux"
    assert len(list((place / "sharded").glob("*.safetensors"))) == 4
    whole = whole_tensors(place)
    rest = torch.load(folder / f"{place.name.removesuffix('morceaux')}reste.pt", weights_only=True)
    whole["optimizer"].update(rest["optimizer"])
    reference = torch.load(folder / f"fsdp-{'lié' if tied else 'livre'}.pt", weights_only=True)
    assert set(whole) == {"model", "optimizer"}
    assert set(whole["model"]) == set(reference)
    for name, tensor in reference.items():
        assert torch.equal(whole["model"][name], tensor), name
    for name, tensor in single[tied][1]["optimizer"].items():
        torch.testing.assert_close(whole["optimizer"][name], tensor, rtol=1e-4, atol=1e-6)


def test_nothing_on_disk_is_executed(ranks, folder):
    """Ni pickle ni index natif de DCP : des fichiers safetensors et du JSON."""
    del ranks
    written = [p for p in (folder / "fsdp-lié-morceaux").rglob("*") if p.is_file()]
    assert {p.suffix for p in written} == {".safetensors", ".json"}


@pytest.mark.slow
def test_two_to_one_to_two(ranks, single, folder):
    """Écrit à deux, relu et récrit seul, repris à deux : la suite est la même."""
    model = small_model(tied=True)
    state = whole_tensors(folder / "fsdp-lié-morceaux")
    rest = torch.load(folder / "fsdp-lié-reste.pt", weights_only=True)
    state["optimizer"].update(rest["optimizer"])
    model.load_state_dict(state["model"])
    optimizer = optimizer_of(model)
    load_optimizer_(optimizer, model, state["optimizer"])
    (folder / "fsdp-lié-entier").mkdir()
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        folder / "fsdp-lié-entier" / "model.safetensors",
    )
    torch.save(optimizer_tensors(optimizer, model), folder / "optimiseur.pt")
    alone = train(AutogradEngine(model, "cpu"), model, optimizer, World(), first=STEPS, steps=2)
    assert_same_curve(alone, single[True][2])
    for results in two_ranks("resume", folder):
        assert_same_curve(results["morceaux"], alone)
        assert_same_curve(results["entier"], alone)
    assert_same_curve(ranks[0]["fsdp-lié-suite"], alone)
