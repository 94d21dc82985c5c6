"""L'affinage : pertes sur les réponses, moteurs d'accord, reprise exacte, un modèle qui répond."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    GPTConfig,
    LoRAConfig,
    OptimizerConfig,
    TrainingConfig,
)
from gpt_architecture.core.lora import adapter_tensors
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.sampler import IGNORED, make_batch
from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.decoding.simple import generate_text_simple
from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    ModelFileError,
    TokenizerError,
    TrainingError,
)
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.model_file import ModelFile, read_model
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.preparation import estimate_training
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.starting import StartingPoint

WINDOW = 47
TRAINING = TrainingConfig(
    epochs=2, batch_size=2, accumulate=2, lr=3e-3, eval_freq=3, stride=WINDOW + 1, train_ratio=0.75
)
ANSWERS = {"La lampe ?": "Elle brille.", "Le bateau ?": "Il dort ici.", "La nuit ?": "Oui."}


def write(path, count=12):
    questions = list(ANSWERS)
    lines = []
    for index in range(count):
        asked = [questions[index % 3], questions[(index + 1) % 3]][: 1 + index % 2]
        messages = [
            message
            for question in asked
            for message in (
                {"role": "user", "content": question},
                {"role": "assistant", "content": ANSWERS[question]},
            )
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    return load_chat_data(
        write(tmp_path / "talk.jsonl"), "simple-v2", window=WINDOW, training=TRAINING
    )


def settings_of(data, **changes):
    shape = GPTConfig(
        vocab_size=data.tokenizer.vocab_size,
        context_length=64,
        emb_dim=24,
        n_heads=3,
        n_layers=2,
        drop_rate=0.1,
        qkv_bias=True,
        tie_weights=True,
    )
    basic = {"window": WINDOW, "device": torch.device("cpu"), "prompt": data.opening}
    return Settings(**{**basic, "model": shape, "training": TRAINING, **changes})


def a_start(settings, data, seed=7):
    torch.manual_seed(seed)
    model = GPTModel(settings.model).eval()
    content = ModelFile(
        config=settings.model, state_dict=model.state_dict(), tokenizer=data.tokenizer.to_dict()
    )
    return StartingPoint(name="depart.pt", content=content)


def with_lora(data, **changes):
    settings = settings_of(data)
    return replace(
        settings,
        start=a_start(settings, data),
        lora=LoRAConfig(rank=4, targets=("query", "value", "up"), dropout=0.2),
        **changes,
    )


def test_data(data):
    """Neuf conversations pour apprendre, trois pour valider ; le gabarit est gardé."""
    assert data.train.num_tokens == 9 * (WINDOW + 1)
    assert data.val.num_tokens == 3 * (WINDOW + 1)
    assert data.opening.endswith("### Réponse :\n")
    assert "messages" in data.chat_template


def test_another_template_is_other_data(tmp_path, data):
    path = tmp_path / "talk.jsonl"
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    other = load_chat_data(path, "simple-v2", window=WINDOW, training=TRAINING, template=template)
    assert other.sha256 != data.sha256


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_loss_is_that_of_the_answers(data, engine):
    """Une étape de plusieurs lots : la moyenne sur tous les tokens des réponses, à la main."""
    settings = settings_of(data, compute=ComputeConfig(engine=engine, precision="fp32"))
    settings = replace(settings, model=replace(settings.model, drop_rate=0.0))
    trainer = build_trainer(settings, data)
    batches = trainer.batches(0)
    assert len(batches) == 2
    total, count, sizes = 0.0, 0, []
    trainer.model.eval()
    with torch.no_grad():
        for batch in batches:
            log_p = torch.log_softmax(trainer.model(batch.inputs), dim=-1)
            known = batch.targets != IGNORED
            for row, column in known.nonzero().tolist():
                total -= float(log_p[row, column, batch.targets[row, column]])
            sizes.append(int(known.sum()))
            count += sizes[-1]
    assert [batch.share for batch in batches] == [size / count for size in sizes]
    assert trainer.advance().loss == pytest.approx(total / count, rel=1e-5)


def test_gradients_ignore_the_questions(data):
    """Les gradients d'une étape accumulée sont ceux de la somme écrite d'un coup."""
    settings = settings_of(data, compute=ComputeConfig(engine="autograd", precision="fp32"))
    settings = replace(settings, model=replace(settings.model, drop_rate=0.0))
    trainer = build_trainer(settings, data)
    batches = trainer.batches(0)
    for batch in batches:
        trainer.engine.forward_backward(batch, scale=batch.share)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad(set_to_none=True)
    nll, count = 0.0, 0
    for batch in batches:
        logits = trainer.model(batch.inputs).flatten(0, 1)
        nll = nll + F.cross_entropy(logits, batch.targets.flatten(), reduction="sum")
        count += int((batch.targets != IGNORED).sum())
    (nll / count).backward()
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-7), name


def test_both_engines_learn_the_same(data):
    losses = []
    for engine in ("autograd", "fused"):
        settings = settings_of(data, compute=ComputeConfig(engine=engine, precision="fp32"))
        trainer = build_trainer(settings, data)
        losses.append([trainer.advance().loss for _ in range(4)])
        assert trainer.evaluate(lambda: False) is not None
        losses[-1] += trainer.evaluate(lambda: False)[:2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_lean_memory_reads_the_same_targets(data):
    training = replace(TRAINING, accumulate=1)
    plain = settings_of(data, training=training, compute=ComputeConfig(engine="fused"))
    lean = replace(plain, compute=ComputeConfig(memory="lean"))
    first, second = (build_trainer(each, data).advance() for each in (plain, lean))
    assert first.loss == pytest.approx(second.loss, rel=1e-6)


def test_padding_changes_nothing(data):
    """Les logits d'une conversation sont les mêmes, seule ou complétée dans un lot."""
    model = a_start(settings_of(data), data).content.build()
    inputs, targets = make_batch(data.train, np.array([0, WINDOW + 1]), WINDOW)
    known = int((targets[0] != IGNORED).nonzero().max()) + 1
    with torch.no_grad():
        alone = model(inputs[:1, :known])
        padded = model(inputs)[:1, :known]
    assert torch.allclose(alone, padded, atol=1e-6)


def run(settings, data, folder, stop_after=None):
    store = CheckpointStore(folder)
    steps = []

    def should_stop():
        steps.append(1)
        return stop_after is not None and store.steps() == [stop_after]

    trainer = build_trainer(
        settings, data, store=store, checkpoint=store.latest(), should_stop=should_stop
    )
    trainer.run()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["entier", "lora"])
def test_resume_is_exact(data, tmp_path, mode):
    """Interrompu puis repris : les mêmes poids et les mêmes pertes, au bit près."""
    saving = CheckpointConfig(save_every=2)
    settings = (
        with_lora(data, checkpoints=saving)
        if mode == "lora"
        else replace(settings_of(data, checkpoints=saving), start=a_start(settings_of(data), data))
    )
    whole = run(settings, data, tmp_path / "a")
    first = run(settings, data, tmp_path / "b", stop_after=2)
    assert not first.complete
    second = run(settings, data, tmp_path / "b")
    assert second.complete
    assert second.state.step == whole.state.step == 5
    for (name, one), two in zip(
        whole.model.named_parameters(), second.model.parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    assert whole.state.train_losses == second.state.train_losses
    start = settings.start.content.state_dict
    changed = [
        name
        for name, tensor in whole.model.state_dict().items()
        if name in start and not torch.equal(start[name], tensor)
    ]
    assert bool(changed) is (mode == "entier")


@pytest.mark.slow
def test_a_lora_checkpoint_holds_only_adapters(data, tmp_path):
    """Il se fond comme un fichier d'adaptateurs, et n'est pas un modèle."""
    settings = with_lora(data, checkpoints=CheckpointConfig(save_every=2))
    trainer = run(settings, data, tmp_path)
    path = tmp_path / "step-000004"
    assert sorted(p.name for p in path.glob("*.safetensors")) == [
        "adapter.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
    ]
    found = read_adapter(tmp_path / "step-000005")
    assert found.lora == settings.lora
    assert found.metadata["chat_template"] == data.chat_template
    own = adapter_tensors(trainer.model)
    assert all(torch.equal(own[name], tensor) for name, tensor in found.tensors.items())
    merged = found.merged(settings.start.content).build()
    inputs, _ = make_batch(data.train, np.array([0]), WINDOW)
    with torch.no_grad():
        assert torch.allclose(merged(inputs), trainer.model.eval()(inputs), atol=1e-5)
    with pytest.raises(ModelFileError, match="adaptateurs"):
        read_model(path)


def test_full_checkpoint_keeps_the_template(data, tmp_path):
    settings = settings_of(data, checkpoints=CheckpointConfig(save_every=5))
    run(settings, data, tmp_path)
    assert read_model(tmp_path / "step-000005").metadata["chat_template"] == data.chat_template


def test_lora_checkpoint_needs_the_same_adapters(data, tmp_path):
    settings = with_lora(data, checkpoints=CheckpointConfig(save_every=2))
    run(settings, data, tmp_path, stop_after=2)
    for lora in (None, LoRAConfig(rank=2)):
        with pytest.raises(TrainingError, match="ne sont pas ceux de ce modèle"):
            run(replace(settings, lora=lora), data, tmp_path)


def test_lora_does_not_move_onto_another_model(data, tmp_path):
    settings = with_lora(data, checkpoints=CheckpointConfig(save_every=2))
    run(settings, data, tmp_path, stop_after=2)
    other = replace(settings, start=a_start(settings, data, seed=8))
    with pytest.raises(TrainingError, match="modèle de départ"):
        run(other, data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"start": None}, "sans modèle de départ"),
        ({"optimizer": OptimizerConfig(optimizer="muon")}, "muon"),
        ({"compute": ComputeConfig(engine="fused")}, "gelés"),
        ({"compute": ComputeConfig(memory="lean")}, "gelés"),
    ],
)
def test_lora_refuses(data, changes, found):
    with pytest.raises(ConfigurationError, match=found):
        build_trainer(replace(with_lora(data), **changes), data)


@pytest.mark.slow
def test_estimate_works(data):
    found = estimate_training(build_trainer(with_lora(data), data))
    assert found.steps == 5
    assert found.seconds > 0


@pytest.mark.slow
def test_learns_to_answer(data):
    """Un modèle minuscule apprend ses trois réponses, et s'arrête de lui-même."""
    training = replace(TRAINING, epochs=60, accumulate=1, batch_size=9, eval_freq=1000, lr=1e-2)
    settings = settings_of(data, training=training, compute=ComputeConfig(engine="autograd"))
    settings = replace(settings, model=replace(settings.model, drop_rate=0.0))
    trainer = build_trainer(settings, data)
    trainer.run()
    tokenizer = data.tokenizer
    for question, answer in ANSWERS.items():
        prompt = render_chat(
            [{"role": "user", "content": question}],
            data.chat_template,
            add_generation_prompt=True,
        )
        ids = tokenizer.encode(prompt, allowed_special={"<|endoftext|>"})
        found = generate_text_simple(
            trainer.model, torch.tensor([ids]), 12, WINDOW, eos_id=tokenizer.eos_id
        )
        produced = found[0, len(ids) :].tolist()
        assert produced[-1] == tokenizer.eos_id
        assert tokenizer.decode(produced[:-1]) == answer
        assert trainer.sample(lambda: False).endswith("<|endoftext|>")


class TestDataRefusals:
    def load(self, path, **changes):
        values = {"window": WINDOW, "training": TRAINING, **changes}
        return load_chat_data(path, values.pop("tokenizer", "simple-v2"), **values)

    def test_one_conversation(self, tmp_path):
        with pytest.raises(DataError, match="1 conversation"):
            self.load(write(tmp_path / "c.jsonl", 1))

    def test_all_too_long(self, tmp_path):
        training = replace(TRAINING, stride=5)
        with pytest.raises(DataError, match=r"9 conversations .*, et aucune ne tient dans 5"):
            self.load(write(tmp_path / "c.jsonl"), window=4, training=training)

    def test_some_too_long_are_told(self, tmp_path, caplog):
        training = replace(TRAINING, stride=26, accumulate=1)
        found = self.load(write(tmp_path / "c.jsonl"), window=25, training=training)
        assert found.train.num_tokens == 7 * 26
        assert "2 conversations de plus de 26 tokens" in caplog.text
        assert "la première : ligne 4)" in caplog.text

    def test_not_enough_for_a_batch(self, tmp_path):
        with pytest.raises(DataError, match="lot entier de 4"):
            self.load(write(tmp_path / "c.jsonl", 4))

    def test_a_line_the_template_refuses(self, tmp_path):
        path = write(tmp_path / "c.jsonl")
        bad = [{"role": "tool", "content": "3"}, {"role": "assistant", "content": "a"}]
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"messages": bad}))
        with pytest.raises(DataError, match=r"rôle tool|ligne 13"):
            self.load(path)

    def test_no_end_of_text(self, tmp_path):
        template = "{% for m in messages %}{{ m.content }} {% endfor %}"
        with pytest.raises(TokenizerError, match="fin de texte"):
            self.load(write(tmp_path / "c.jsonl"), tokenizer="simple-v1", template=template)


def test_starting_point_is_its_own_copy(data):
    settings = settings_of(data)
    start = a_start(settings, data)
    model = start.build(settings.model)
    model.tok_emb.weight.data.zero_()
    assert start.content.state_dict["tok_emb.weight"].abs().sum() > 0
    assert model.out_head.weight is model.tok_emb.weight
