"""Points de reprise communs, dans un groupe d'un seul rang : publication, refus, restes."""

import contextlib
import logging
import socket
from concurrent import futures

import pytest
import torch
from distributed_helpers import small_model
from training.parallel_worker import groups_of, optimizer_of

from gpt_architecture.cli import launch as _launch
from gpt_architecture.cli.launch import check_alone
from gpt_architecture.errors import ConfigurationError, OutputError, TrainingError
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.distributed import group as distributed
from gpt_architecture.training.distributed import store as distributed_store
from gpt_architecture.training.distributed.group import distributed_world
from gpt_architecture.training.distributed.parallel import ModelSharing
from gpt_architecture.training.distributed.store import DistributedStore
from gpt_architecture.training.distributed.world import World, check_share, on_main

STATE = {"trainer": {"step": 4}}


@pytest.fixture
def world(monkeypatch):
    """Un groupe gloo d'un rang, dans ce processus."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with distributed_world(20, device="cpu") as world:
        yield world


def sharded_groups(world):
    """Un modèle réparti et son optimiseur, après une étape ; et les poids entiers."""
    model = small_model(tied=True)
    ModelSharing(world=world, strategy="fsdp")(model)
    optimizer = optimizer_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    groups = {**groups_of(model, optimizer), "rng": {"cpu": torch.get_rng_state()}}
    groups["model"] = dict(model.named_parameters())
    return groups, {name: t.full_tensor().detach().clone() for name, t in groups["model"].items()}


@pytest.mark.slow
def test_shards_become_an_ordinary_checkpoint(world, tmp_path):
    """Publié à `flush` : poids, moments, scalaires et générateurs ; plus aucun morceau."""
    store = CheckpointStore(tmp_path)
    groups, weights = sharded_groups(world)
    with DistributedStore(store, world) as shared:
        assert shared.save(4, groups, STATE) == tmp_path / "step-000004"
        shared.mark_best(4)
    checkpoint = store.latest()
    assert (checkpoint.step, checkpoint.state) == (4, STATE)
    assert store.best().step == 4
    assert checkpoint.tensors("model").keys() == weights.keys()
    for name, tensor in checkpoint.tensors("model").items():
        assert torch.equal(tensor, weights[name]), name
    assert checkpoint.tensors("optimizer").keys() == groups["optimizer"].keys()
    assert checkpoint.tensors("optimizer")["pos_emb.weight/step"] == 1
    assert torch.equal(checkpoint.tensors("rng")["cpu"], groups["rng"]["cpu"])
    assert not list(tmp_path.glob("*.shards"))


def test_leftover_shards_are_swept(world, tmp_path):
    (tmp_path / "step-000002.shards" / "sharded").mkdir(parents=True)
    with DistributedStore(CheckpointStore(tmp_path), world):
        assert not list(tmp_path.glob("*.shards"))


@pytest.mark.slow
def test_a_refused_publication_does_not_cost_the_next(world, tmp_path, monkeypatch):
    """Les morceaux sont écrits, la publication refusée : le suivant le dit, et s'écrit."""
    store = CheckpointStore(tmp_path)
    groups, _ = sharded_groups(world)
    publish, said = store.save, []
    monkeypatch.setattr(
        distributed_store.logger, "warning", lambda text, error: said.append(text % error.found)
    )

    def refuse(*_):
        raise OutputError("disque plein", expected="de la place", remedy="libérez-en")

    with DistributedStore(store, world) as shared:
        monkeypatch.setattr(store, "save", refuse)
        shared.save(4, groups, STATE)
        with pytest.raises(OutputError, match="disque plein"):
            shared.flush()
        assert not list(tmp_path.glob("*.shards"))
        shared.save(5, groups, STATE)
        futures.wait([shared._pending])
        monkeypatch.setattr(store, "save", publish)
        shared.save(6, groups, STATE)
    assert store.steps() == [6]
    (message,) = said
    assert message == "le point de reprise précédent n'a pas été écrit : disque plein"


def test_an_error_leaves_the_pending_checkpoint_whole(world, tmp_path):
    """L'entraînement échoue pendant l'écriture : elle s'achève."""
    store = CheckpointStore(tmp_path)
    groups, _ = sharded_groups(world)

    def fail():
        with DistributedStore(store, world) as shared:
            shared.save(4, groups, STATE)
            raise ValueError("perdu")

    with pytest.raises(ValueError, match="perdu"):
        fail()
    assert store.steps() == [4]
    assert not list(tmp_path.glob("*.shards"))


def test_a_folder_that_cannot_exist_is_refused(world, tmp_path):
    (tmp_path / "occupe").write_text("un fichier", encoding="utf-8")
    groups, _ = sharded_groups(world)
    shared = DistributedStore(CheckpointStore(tmp_path / "occupe"), world)
    with pytest.raises(OutputError, match="occupe"):
        shared.save(4, groups, STATE)


def test_whole_weights_are_written_as_they_are(world, tmp_path):
    store = CheckpointStore(tmp_path)
    model = small_model()
    with DistributedStore(store, world) as shared:
        shared.save(1, {"model": dict(model.named_parameters())}, STATE)
        assert store.steps() == [1]  # sans attendre `flush`


def test_a_lost_peer_becomes_one_sentence(world):
    """L'erreur d'un échange rompu est celle de l'entraînement ; une autre reste elle-même."""
    del world
    lost = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242")
    with pytest.raises(TrainingError, match="a disparu ou n'a pas répondu en 20 s"):
        _leave_with(lost)


def _leave_with(error):
    """Fait sortir l'erreur d'un groupe déjà formé, sans en former un second."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(distributed.dist, "init_process_group", lambda *_, **__: None)
        patch.setattr(distributed.dist, "destroy_process_group", lambda: None)
        with distributed_world(20, device="cpu"):
            raise error


def test_main_acts_and_its_failure_is_its_own():
    alone = World()
    assert on_main(alone, lambda: 3) == 3
    with pytest.raises(OSError, match="plein"):
        on_main(alone, lambda: (_ for _ in ()).throw(OSError("plein")))


class Pair(World):
    """Le second de deux rangs, dont le premier échoue ou non."""

    rank, size, is_main = 1, 2, False

    def __init__(self, main_failed):
        self.main_failed = main_failed

    def any(self, flag):
        return flag or self.main_failed


def test_others_wait_for_main_and_fail_with_it():
    assert on_main(Pair(False), lambda: pytest.fail("agit")) is None
    with pytest.raises(SystemExit) as stop:
        on_main(Pair(True), lambda: pytest.fail("agit"))
    assert stop.value.code == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_says_its_own_failure(monkeypatch, capsys, rank):
    """Celle du premier va au lanceur ; les autres disent la leur, avec leur rang."""

    @contextlib.contextmanager
    def joined(*_arguments, **_options):
        world = Pair(False)
        world.rank, world.is_main = rank, rank == 0
        yield world

    for name, value in {"TORCHELASTIC_RUN_ID": "essai", "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "distributed_world", joined)
    monkeypatch.setattr(_launch, "silence_stdout", lambda: None)
    monkeypatch.setattr(logging.getLogger("gpt_architecture"), "level", logging.WARNING)
    with (
        pytest.raises((TrainingError, SystemExit)) as stop,
        _launch.joined_world(600.0, "cpu"),
    ):
        raise TrainingError("mémoire pleine", expected="de la place", remedy="libérez-en")
    said = capsys.readouterr().err
    if rank == 0:
        assert (stop.type, said) == (TrainingError, "")
    else:
        assert stop.value.code == 1
        assert said == "processus 1 : mémoire pleine (attendu : de la place) ; libérez-en.\n"


def test_shares_and_single_process_options():
    check_share(4, Pair(False))
    with pytest.raises(ConfigurationError, match="multiple de 2"):
        check_share(3, Pair(False))
    check_alone(World(), {"--estimate": True})
    check_alone(Pair(False), {"--estimate": False})
    with pytest.raises(ConfigurationError, match="--estimate avec 2 processus"):
        check_alone(Pair(False), {"--estimate": True})
