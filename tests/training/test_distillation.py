"""La distillation : égale à son écriture à la main, reprise au bit près, professeur inchangé."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from conftest import FRENCH_TEXT
from interop_helpers import GPT2, content, tokenizer
from preference_helpers import a_start

from gpt_architecture import train
from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    GPTConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.errors import CheckpointError, ConfigurationError
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.starting import StartingPoint

WINDOW = 16
TRAINING = TrainingConfig(batch_size=2, accumulate=2, max_steps=4, eval_freq=2, lr=1e-3)
VOCABULARY = tokenizer()
TEACHER = replace(GPT2, vocab_size=VOCABULARY.vocab_size)
STUDENT = GPTConfig(
    vocab_size=VOCABULARY.vocab_size,
    context_length=16,
    emb_dim=12,
    n_heads=2,
    n_layers=1,
    drop_rate=0.0,
    qkv_bias=True,
    tie_weights=True,
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(FRENCH_TEXT * 3, encoding="utf-8")
    return path


@pytest.fixture
def data(text):
    return load_training_data(
        [str(text)], "gpt2", window=WINDOW, training=TRAINING, vocabulary=VOCABULARY
    )


def settings_of(data, engine="autograd", **changes):
    basic = {
        "model": STUDENT,
        "window": WINDOW,
        "device": torch.device("cpu"),
        "prompt": data.opening,
        "training": TRAINING,
        "compute": ComputeConfig(engine=engine, precision="fp32"),
        "objective": ObjectiveConfig(distill="p", distill_temperature=3.0, distill_alpha=0.7),
        "teacher": StartingPoint(name="professeur", content=content(TEACHER)),
    }
    return Settings(**{**basic, **changes})


def slow_loss(student, teacher, batches, temperature, alpha):
    """(1 − α) CE + α T² Σ p (log p − log q), un token après l'autre, sur toute l'étape."""
    total, count = 0.0, 0
    for batch in batches:
        mine, theirs = student(batch.inputs).double(), teacher(batch.inputs).double().detach()
        for row, place in (batch.targets != IGNORED).nonzero().tolist():
            target = int(batch.targets[row, place])
            log_q = torch.log_softmax(mine[row, place], dim=-1)
            soft_p = torch.softmax(theirs[row, place] / temperature, dim=-1)
            soft_q = torch.softmax(mine[row, place] / temperature, dim=-1)
            kl = (soft_p * (soft_p / soft_q).log()).sum()
            total = total - (1 - alpha) * log_q[target] + alpha * temperature**2 * kl
            count += 1
    return total / count


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_step_is_the_slow_formula(data, engine):
    settings = settings_of(data, engine)
    trainer = build_trainer(settings, data)
    teacher = content(TEACHER).build().eval()
    batches = trainer.batches(0)
    loss = sum(trainer.engine.forward_backward(b, scale=b.share) * b.share for b in batches)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad(set_to_none=True)
    expected = slow_loss(trainer.model, teacher, batches, 3.0, 0.7)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_only_answers_of_conversations_are_taught(tmp_path, engine):
    """Des conversations : les cibles laissées de côté n'ont pas de professeur non plus."""
    lines = [
        json.dumps({"prompt": f"Le passeur {n} ?", "completion": "Il détacha le bateau."})
        for n in range(8)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    window, training = 28, replace(TRAINING, stride=29)
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    data = load_chat_data(
        path, "", window=window, training=training, template=template, vocabulary=VOCABULARY
    )
    settings = settings_of(
        data, engine, window=window, training=training, model=replace(STUDENT, context_length=32)
    )
    trainer = build_trainer(settings, data)
    teacher = content(TEACHER).build().eval()
    expected = slow_loss(trainer.model.eval(), teacher, trainer.batches(0), 3.0, 0.7)
    assert trainer.advance().loss == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_the_teacher_keeps_to_documents(data, engine):
    """Avec des documents séparés, le professeur non plus ne voit pas le précédent."""
    settings = settings_of(data, engine, training=replace(TRAINING, document_mask=True))
    trainer = build_trainer(settings, data)
    (batch, _) = trainer.batches(0)
    places = torch.arange(batch.inputs.numel())
    half = torch.zeros_like(batch.inputs)
    half[:, 8:] = 8
    objective = trainer.engine._objective
    whole = objective._teacher(batch.inputs, places).view(2, WINDOW, -1)
    apart = objective._teacher(batch.inputs, places, half).view(2, WINDOW, -1)
    alone = objective._teacher(batch.inputs[:, 8:], places[:16]).view(2, 8, -1)
    torch.testing.assert_close(apart[:, :8], whole[:, :8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apart[:, 8:], alone, rtol=1e-4, atol=1e-5)


def test_measures_and_validation(data):
    """L'étape dit ses deux parts ; la validation reste l'entropie croisée du texte."""
    settings = settings_of(data)
    trainer = build_trainer(settings, data)
    plain = build_trainer(replace(settings, teacher=None, objective=ObjectiveConfig()), data)
    assert trainer.evaluate(lambda: False)[:2] == plain.evaluate(lambda: False)[:2]
    record = trainer.advance()
    mixed = 0.3 * record.measures["cross_entropy"] + 0.7 * 9 * record.measures["kl"]
    assert record.loss == pytest.approx(mixed, rel=1e-6)
    assert record.measures["cross_entropy"] == pytest.approx(plain.advance().loss, rel=1e-5)


def test_the_student_comes_closer(data):
    """Sans le texte (α = 1), l'élève imite : la divergence baisse."""
    training = replace(TRAINING, max_steps=40, lr=1e-2)
    objective = ObjectiveConfig(distill="p", distill_alpha=1.0)
    trainer = build_trainer(settings_of(data, training=training, objective=objective), data)
    first = trainer.advance().measures["kl"]
    last = [trainer.advance().measures["kl"] for _ in range(39)][-1]
    assert last < 0.8 * first


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_resume_is_exact(data, tmp_path, engine):
    settings = settings_of(data, engine, checkpoints=CheckpointConfig(save_every=2))
    settings = replace(settings, model=replace(STUDENT, drop_rate=0.1))
    before = settings.teacher.sha256

    def run(folder, stop_after=None):
        store = CheckpointStore(folder)
        trainer = build_trainer(
            settings,
            data,
            store=store,
            checkpoint=store.latest(),
            should_stop=lambda: stop_after is not None and store.steps() == [stop_after],
        )
        trainer.run()
        return trainer

    whole = run(tmp_path / "a")
    assert not run(tmp_path / "b", stop_after=2).complete
    second = run(tmp_path / "b")
    assert second.complete
    for one, two in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert whole.state.val_losses == second.state.val_losses
    assert StartingPoint(name="p", content=settings.teacher.content).sha256 == before


def test_a_short_teacher_is_refused(data):
    short = replace(TEACHER, context_length=8)
    teacher = StartingPoint(name="professeur", content=content(short))
    with pytest.raises(ConfigurationError, match="8 positions"):
        build_trainer(settings_of(data, teacher=teacher), data)


class TestWholeTraining:
    """D'un appel : le vocabulaire vient du professeur, d'où qu'il soit."""

    SMALL: ClassVar = {
        "context_length": 16,
        "positions": 16,
        "emb_dim": 12,
        "n_heads": 2,
        "n_layers": 1,
        "max_steps": 3,
        "eval_freq": 2,
        "device": "cpu",
        "save_every": 2,
    }

    def own(self, tmp_path, config=TEACHER):
        found = content(config)
        path = tmp_path / "professeur.pt"
        save_model(path, found.build(), found.config, tokenizer=found.tokenizer)
        return path

    def test_vocabulary_and_identity(self, text, tmp_path):
        """Les lignes vides qui complètent le vocabulaire du professeur ne comptent pas."""
        path = self.own(tmp_path, GPT2)
        run = train(text, distill=path, output_dir=tmp_path / "m", **self.SMALL)
        found = read_model(run.path)
        assert found.tokenizer == VOCABULARY.to_dict()
        assert found.config.vocab_size == VOCABULARY.vocab_size < GPT2.vocab_size
        asked = found.metadata["objective"]
        assert asked["distill_alpha"] == 0.5
        assert asked["teacher"]["sha256"]
        assert train(resume=run, max_steps=4).state.step == 4

    def test_another_teacher_is_not_a_resume(self, text, tmp_path):
        path = self.own(tmp_path)
        run = train(text, distill=path, output_dir=tmp_path / "m", **self.SMALL)
        other = content(replace(TEACHER, n_layers=1))
        save_model(path, other.build(), other.config, tokenizer=other.tokenizer)
        with pytest.raises(CheckpointError, match="professeur"):
            train(resume=run, max_steps=4)

    def test_a_transformers_folder_teaches(self, text, tmp_path):
        export_hf(content(TEACHER), tmp_path / "hf")
        run = train(text, distill=tmp_path / "hf", output_dir=tmp_path / "m", **self.SMALL)
        assert run.complete

    def test_refusals(self, text, tmp_path):
        path = self.own(tmp_path)
        start = a_start()
        other = tmp_path / "autre.pt"
        save_model(
            other, start.content.build(), start.content.config, tokenizer=start.content.tokenizer
        )
        small = {"output_dir": tmp_path / "m", "max_steps": 2, "device": "cpu"}
        with pytest.raises(ConfigurationError, match="vocabulaire du professeur"):
            train(text, distill=path, start=other, **small)
        with pytest.raises(ConfigurationError, match=r"distill.*tokenizer"):
            train(text, distill=path, tokenizer="char", **small)
        judge = replace(TEACHER, tie_weights=False, head={"labels": ["a", "b"]})
        with pytest.raises(ConfigurationError, match=r"professeur.*classe ou note"):
            train(text, distill=self.own(tmp_path, judge), **small)
        with pytest.raises(ConfigurationError, match=r"distill_alpha.*sans"):
            train(text, distill_alpha=0.2, **small)
        assert not (tmp_path / "m").exists()
