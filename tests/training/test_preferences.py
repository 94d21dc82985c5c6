"""Les pertes de préférence : égales à leur écriture la plus lente, reprises au bit près."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from preference_helpers import (
    TRAINING,
    WINDOW,
    a_start,
    pair_data,
    settings_of,
    shape,
    write_pairs,
)

from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    LoRAConfig,
    ObjectiveConfig,
    OptimizerConfig,
)
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.errors import CheckpointError, ConfigurationError
from gpt_architecture.training import reference
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.distributed.world import World
from gpt_architecture.training.journals import JournalWriter
from gpt_architecture.training.outputs import check_same_training
from gpt_architecture.training.preparation import estimate_training
from gpt_architecture.training.session import build_trainer

CASES = {
    "dpo": {},
    "dpo-lissé": {"beta": 0.3, "label_smoothing": 0.2},
    "orpo": {"beta": 0.25},
    "simpo": {"beta": 1.5, "gamma": 0.7},
    "simpo-lissé": {"label_smoothing": 0.1},
}


@pytest.fixture
def data(tmp_path):
    return pair_data(tmp_path)


def objective(name, **changes):
    loss = name.partition("-")[0]
    return ObjectiveConfig(preferences="p", preference_loss=loss, **{**CASES[name], **changes})


def answer_log_probs(model, inputs, targets):
    """log p de chaque token de réponse d'une rangée, un à un."""
    logits = model(inputs[None])[0]
    found = []
    for place in range(len(inputs)):
        if int(targets[place]) != IGNORED:
            values = logits[place].double()
            top = values.max()
            total = top + torch.log(torch.exp(values - top).sum())
            found.append(values[int(targets[place])] - total)
    return torch.stack(found)


def conversation_log_prob(model, source, pair):
    """(Somme des log p de toute la conversation préférée, nombre de tokens prédits.)"""
    length = int(source.lengths[pair, 0])
    ids = source.read(2 * pair * (WINDOW + 1), length + 1)
    log_p = torch.log_softmax(model(ids[None, :-1])[0].double(), dim=-1)
    return sum(log_p[i, int(ids[i + 1])] for i in range(length)), length


def slow_loss(model, base, source, pairs, config):
    """La moyenne sur les paires, la formule de l'article écrite paire par paire."""
    losses, beta = [], config.strength
    text, tokens = 0.0, 0
    for pair in pairs:
        rows = [source.read(start, WINDOW + 1) for start in (2 * pair * 48, (2 * pair + 1) * 48)]
        targets = [
            source.read_targets(start + 1, WINDOW) for start in (2 * pair * 48, (2 * pair + 1) * 48)
        ]
        own = [answer_log_probs(model, row[:-1], t) for row, t in zip(rows, targets, strict=True)]
        with torch.no_grad():
            kept = [answer_log_probs(base, r[:-1], t) for r, t in zip(rows, targets, strict=True)]
        eps = config.label_smoothing
        if config.preference_loss == "orpo":
            odds = [torch.exp(each.mean()) / (1 - torch.exp(each.mean())) for each in own]
            losses.append(-beta * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1]))))
            found, count = conversation_log_prob(model, source, pair)
            text, tokens = text - found, tokens + count
            continue
        if config.preference_loss == "dpo":
            rewards = [beta * (o.sum() - k.sum()) for o, k in zip(own, kept, strict=True)]
            margin = rewards[0] - rewards[1]
        else:
            rewards = [beta * each.mean() for each in own]
            margin = rewards[0] - rewards[1] - config.margin
        losses.append(
            -(1 - eps) * torch.log(torch.sigmoid(margin)) - eps * torch.log(torch.sigmoid(-margin))
        )
    return torch.stack(losses).mean() + (text / tokens if tokens else 0.0)


def moved(trainer, spread=0.05):
    """Éloigne le modèle de sa référence."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return trainer


@pytest.mark.parametrize("engine", ["autograd", "fused"])
@pytest.mark.parametrize("name", CASES)
def test_step_is_the_slow_formula(data, name, engine):
    """Perte et gradients d'une étape de deux lots : ceux de la formule, écrite d'un coup."""
    settings = settings_of(data, engine=engine, objective=objective(name))
    trainer = moved(build_trainer(settings, data))
    batches = trainer.batches(0)
    assert len(batches) == 2
    loss = sum(trainer.engine.forward_backward(b, scale=b.share) * b.share for b in batches)
    found = {key: p.grad.clone() for key, p in trainer.model.named_parameters()}
    trainer.model.zero_grad(set_to_none=True)
    base = settings.start.build(settings.model).eval()
    pairs = data.train.numbers(trainer.batches.sampler.batch(0)[0]).tolist()
    expected = slow_loss(trainer.model.eval(), base, data.train, pairs, settings.objective)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for key, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_is_the_slow_formula(data, name):
    """Toute la validation d'un coup, quel que soit le lot ; les récompenses sont les bonnes."""
    settings = settings_of(data, objective=objective(name))
    settings = replace(settings, training=replace(TRAINING, batch_size=1, accumulate=4))
    trainer = moved(build_trainer(settings, data))
    found = trainer.evaluate(lambda: False)
    base = settings.start.build(settings.model).eval()
    pairs = data.val.numbers(trainer.evaluate.sets[1].starts).tolist()
    with torch.no_grad():
        expected = slow_loss(trainer.model.eval(), base, data.val, pairs, settings.objective)
    assert found.val == pytest.approx(float(expected), rel=1e-5)
    measures = found.measures
    margin = measures["reward_chosen"] - measures["reward_rejected"]
    assert measures["reward_margin"] == pytest.approx(margin, abs=1e-9)
    assert 0 <= measures["reward_accuracy"] <= 1
    assert ("kl" in measures) is (settings.objective.preference_loss == "dpo")
    assert trainer.evaluate(lambda: True) is None


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_dpo_starts_at_its_reference(data, engine):
    """Avant d'apprendre, le modèle est sa référence : ln 2, nulle récompense, nulle divergence."""
    trainer = build_trainer(settings_of(data, engine=engine), data)
    record = trainer.advance()
    assert record.loss == pytest.approx(math.log(2), abs=1e-4)
    assert record.measures["reward_chosen"] == pytest.approx(0, abs=1e-3)
    assert record.measures["kl"] == pytest.approx(0, abs=1e-4)
    later = trainer.advance()
    assert abs(later.measures["reward_margin"]) > 1e-3
    assert later.measures["kl"] > 0
    assert later.tokens == 4 * 2 * trainer.batches(1)[0].inputs.size(1)


def test_chosen_answers_become_likelier(data):
    """Quelques étapes suffisent aux trois pertes pour préférer ce qui l'est."""
    training = replace(TRAINING, epochs=6, lr=1e-2, eval_freq=1000)
    for loss in ("dpo", "orpo", "simpo"):
        trainer = build_trainer(settings_of(data, loss, training=training), data)
        trainer.sample = None
        first = trainer.evaluate(lambda: False)
        trainer.run()
        last = trainer.evaluate(lambda: False)
        assert last.val < first.val, loss
        assert last.measures["reward_accuracy"] == 1.0, loss
        assert last.measures["reward_margin"] > first.measures["reward_margin"], loss


def run(settings, data, folder, stop_after=None):
    store = CheckpointStore(folder / "checkpoints")
    trainer = build_trainer(
        settings,
        data,
        store=store,
        checkpoint=store.latest(),
        folder=folder,
        should_stop=lambda: stop_after is not None and store.steps() == [stop_after],
    )
    trainer.run()
    return trainer


@pytest.mark.parametrize("mode", ["entier", "fusionné", "lora"])
@pytest.mark.parametrize("loss", ["dpo", "orpo"])
def test_resume_is_exact(data, tmp_path, mode, loss):
    """Interrompu puis repris : mêmes poids et mêmes pertes ; la référence reste celle du départ."""
    settings = settings_of(
        data,
        loss,
        engine="fused" if mode == "fusionné" else "autograd",
        checkpoints=CheckpointConfig(save_every=2),
        lora=LoRAConfig(rank=4, targets=("query", "value", "up")) if mode == "lora" else None,
    )
    whole = run(settings, data, tmp_path / "a")
    first = run(settings, data, tmp_path / "b", stop_after=2)
    assert not first.complete
    if mode == "entier":  # perdue, la référence se refait du modèle de départ
        (tmp_path / "b" / reference.REFERENCE).unlink(missing_ok=True)
    second = run(settings, data, tmp_path / "b")
    assert second.complete
    assert second.state.step == whole.state.step == 5
    for (name, one), two in zip(
        whole.model.named_parameters(), second.model.parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    assert whole.state.train_losses == second.state.train_losses
    assert whole.state.val_losses == second.state.val_losses


def test_the_end_of_the_file_as_validation_is_not_a_resume(data):
    """Un point de reprise d'avant le tirage : refusé, et c'est la validation qui est nommée."""
    identity = settings_of(data).identity(data)
    before = {**identity, "data": {**identity["data"]}}
    del before["data"]["split"]
    found = SimpleNamespace(path="step-000004", state={"identity": before, "options": {}})
    with pytest.raises(CheckpointError, match=r"\(validation : fin des données enr.*, tirage dem"):
        check_same_training(found, identity, {})
    found.state["identity"] = identity
    check_same_training(found, identity, {})


class TestReference:
    def counted(self, monkeypatch):
        calls = []
        measured = reference._measured

        def counting(*args, **options):
            calls.append(1)
            return measured(*args, **options)

        monkeypatch.setattr(reference, "_measured", counting)
        return calls

    def test_kept_and_read_again(self, data, tmp_path, monkeypatch, caplog):
        """Une seule passe ; une autre si le modèle, les paires ou le fichier changent."""
        calls = self.counted(monkeypatch)
        settings = settings_of(data)
        first = build_trainer(settings, data, folder=tmp_path).batches(0)[0].reference
        assert len(calls) == 2  # l'entraînement et la validation
        second = build_trainer(settings, data, folder=tmp_path).batches(0)[0].reference
        assert len(calls) == 2
        assert torch.equal(first, second)
        build_trainer(replace(settings, start=a_start(seed=8)), data, folder=tmp_path)
        assert len(calls) == 4
        (tmp_path / "autre").mkdir()
        other = pair_data(tmp_path / "autre", swap=(1,))
        build_trainer(settings, other, folder=tmp_path)
        assert len(calls) == 6
        path = tmp_path / reference.REFERENCE
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        build_trainer(settings, other, folder=tmp_path)
        assert len(calls) == 8
        assert "à refaire" in caplog.text

    def test_full_disk_is_said(self, data, tmp_path, caplog):
        """Un dossier qui refuse l'écriture n'arrête rien."""
        (tmp_path / reference.REFERENCE).mkdir()
        trainer = build_trainer(settings_of(data), data, folder=tmp_path)
        assert "non gardées" in caplog.text
        assert trainer.advance().loss == pytest.approx(math.log(2), abs=1e-4)

    def test_values_are_those_of_the_start(self, data):
        settings = settings_of(data)
        trainer = build_trainer(settings, data)
        base = settings.start.build(settings.model).eval()
        batch = trainer.batches(0)[0]
        expected = [
            answer_log_probs(base, row, target)
            for row, target in zip(batch.inputs, batch.targets, strict=True)
        ]
        torch.testing.assert_close(
            batch.reference, torch.cat(expected).float(), rtol=1e-4, atol=1e-5
        )

    def test_an_estimate_measures_none(self, data, monkeypatch):
        calls = self.counted(monkeypatch)
        trainer = build_trainer(settings_of(data), data, rehearsal=True)
        assert estimate_training(trainer).steps == 5
        assert not calls

    def test_orpo_and_simpo_have_none(self, data, tmp_path):
        for loss in ("orpo", "simpo"):
            trainer = build_trainer(settings_of(data, loss), data, folder=tmp_path)
            assert trainer.batches(0)[0].reference is None
        assert not (tmp_path / reference.REFERENCE).exists()


class Rank(World):
    """Un rang parmi deux, sans échange : il ne voit que sa part."""

    size = 2

    def __init__(self, rank):
        self.rank = rank
        self.is_main = rank == 0


def test_two_ranks_share_the_pairs_of_a_step(data):
    """Les paires d'une étape, leurs parts et leurs références : celles d'un seul processus."""
    settings = settings_of(data, "dpo", training=replace(TRAINING, accumulate=1, batch_size=4))
    alone = build_trainer(settings, data).batches
    whole = alone(0)[0]
    found = [replace(alone, world=Rank(rank))(0) for rank in (0, 1)]
    assert [len(each) for each in found] == [1, 1]
    inputs = [row for (each,) in found for row in each.inputs]
    for one, two in zip(whole.inputs, inputs, strict=True):
        length = min(len(one), len(two))
        assert torch.equal(one[:length], two[:length])
    assert torch.equal(torch.cat([each.reference for (each,) in found]), whole.reference)
    assert [each.share for (each,) in found] == [1.0, 1.0]
    assert {each.mean_length for (each,) in found} == {whole.mean_length}
    ids = torch.cat([each.sequence_ids for (each,) in found])
    assert torch.equal(ids, whole.sequence_ids)
    assert len(set(ids.tolist())) == 8


def test_journal_keeps_rewards(data, tmp_path):
    """Récompenses, marge, exactitude et divergence : à chaque étape et à chaque évaluation."""
    writer = JournalWriter(tmp_path / "journal.jsonl", flops_per_token=1, peak_flops=1.0)
    build_trainer(settings_of(data), data, callbacks=[writer]).run()
    lines = [json.loads(each) for each in (tmp_path / "journal.jsonl").read_text().splitlines()]
    names = {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl"}
    for kind in ("step", "evaluation"):
        records = [each for each in lines if each["kind"] == kind]
        assert records
        assert all(names <= each.keys() for each in records)
        assert all("measures" not in each for each in records)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"lora": LoRAConfig(rank=2), "optimizer": OptimizerConfig(optimizer="muon")}, "muon"),
        ({"lora": LoRAConfig(rank=2), "compute": ComputeConfig(engine="fused")}, "gelés"),
    ],
)
def test_refusals_of_the_loop_still_hold(data, changes, found):
    with pytest.raises(ConfigurationError, match=found):
        build_trainer(settings_of(data, **changes), data)


def test_lean_memory_learns_pairs(data):
    training = replace(TRAINING, accumulate=1)
    plain = settings_of(data, engine="fused", training=training)
    lean = replace(plain, compute=ComputeConfig(memory="lean", precision="fp32"))
    first, second = (build_trainer(each, data) for each in (plain, lean))
    for _ in range(2):
        one, two = first.advance(), second.advance()
        assert one.loss == pytest.approx(two.loss, rel=1e-3)


def test_pairs_of_an_epoch_are_all_read(data):
    sampler = settings_of(data).sampler(data.train)
    assert sampler.num_windows == data.train.count == 9
    starts = np.concatenate([sampler.batch(step)[0] for step in range(9)])[:9]
    assert sorted(data.train.numbers(starts).tolist()) == list(range(9))


def test_dropout_is_left_out(tmp_path):
    """Un modèle à dropout n'en a pas ici : sa référence n'en a pas."""
    from gpt_architecture.formats.model_file import save_model
    from gpt_architecture.training.inputs import Origins
    from gpt_architecture.training.preparation import prepare, request_of

    start = a_start(shape(drop_rate=0.3))
    path = tmp_path / "depart.pt"
    content = start.content
    save_model(path, content.build(), content.config, tokenizer=content.tokenizer)
    pairs = write_pairs(tmp_path / "p.jsonl")
    origins = Origins()
    asked = {"start": path, "preferences": pairs, "output_dir": tmp_path / "m", "device": "cpu"}
    run = prepare(request_of(asked, origins), origins)
    assert run.settings.model.drop_rate == 0.0
    assert run.settings.stride == 2 * (run.settings.window + 1)
    assert run.survey.baselines is None
