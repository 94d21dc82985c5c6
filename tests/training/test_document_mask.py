"""Documents séparés dans une rangée : exactement chaque document seul, sur les deux moteurs."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_helpers import BASE, as_batch, pair
from torch.nn import functional as F

from gpt_architecture import train
from gpt_architecture.config import ComputeConfig, GPTConfig, TrainingConfig
from gpt_architecture.core.documents import DocumentSpans
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.packing import PackedConversations, pack
from gpt_architecture.data.sampler import IGNORED, document_starts, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.conversations import ConversationTokens, EncodedConversation
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.step import AutogradEngine, Batch, checkpoint_activations_

LENGTHS = ((9, 1, 14, 8), (20, 12), (32,))
"""Les documents de trois rangées de 32 tokens."""


def rows_of(lengths=LENGTHS, vocab=BASE["vocab_size"]):
    """Un lot de documents aléatoires, et le début du document de chaque token."""
    torch.manual_seed(11)
    ids = torch.randint(vocab, (len(lengths), sum(lengths[0]) + 1))
    starts = torch.tensor(
        [
            [sum(row[:index]) for index, length in enumerate(row) for _ in range(length)]
            for row in lengths
        ]
    )
    return Batch(
        inputs=ids[:, :-1].contiguous(),
        targets=ids[:, 1:].contiguous(),
        sequence_ids=torch.arange(len(lengths)),
        document_starts=starts,
    )


def alone(model, batch, lengths=LENGTHS):
    """L'oracle : chaque document seul, depuis la position 0 ; perte moyenne de leurs tokens."""
    total = 0.0
    for row, documents in enumerate(lengths):
        first = 0
        for length in documents:
            chosen = slice(first, first + length)
            logits = model(batch.inputs[row : row + 1, chosen])
            total += F.cross_entropy(logits[0], batch.targets[row, chosen], reduction="sum")
            first += length
    return total / batch.targets.numel()


def check_same_gradients(found, expected):
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        size = b.grad.abs().max()
        assert (a.grad - b.grad).abs().max() <= 3e-6 * size + 2e-9, name


@pytest.mark.parametrize("engine", ["autograd", "recalculé", "fusionné", "fusionné recalculé"])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True, "tie_weights": True}])
def test_packed_documents_are_the_documents_alone(engine, changes):
    """Perte et gradients, positions apprises comprises."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, **changes, "drop_rate": 0.0})).train()
    oracle = copy.deepcopy(model)
    if oracle.cfg.tie_weights:
        oracle.tie_weights_()
    batch = rows_of()
    expected = alone(oracle, batch)
    expected.backward()
    if engine.startswith("fusionné"):
        calculator = FusedStep(model, seed=7, recompute=engine.endswith("recalculé"))
        evaluated = calculator.loss(batch.inputs, batch.targets, batch.document_starts)
        assert evaluated.item() == pytest.approx(expected.item(), rel=1e-6)
    else:
        if engine == "recalculé":
            checkpoint_activations_(model)
        calculator = AutogradEngine(model, "cpu", n_layers=model.cfg.n_layers)
    found = calculator.forward_backward(batch, scale=1.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    check_same_gradients(model, oracle)
    assert model.pos_emb.weight.grad[:32].abs().sum(dim=1).gt(0).all()
    assert not model.pos_emb.weight.grad[32:].any()


def test_dropout_is_the_same_on_both_engines():
    """Mêmes clés, mêmes masques : les documents séparés n'y changent rien."""
    step, oracle, keys = pair()
    batch = rows_of()
    engine = AutogradEngine(oracle, "cpu", n_layers=oracle.cfg.n_layers)
    with keys.sequences(batch.sequence_ids):
        expected = engine.forward_backward(batch, scale=1.0)
    found = step.forward_backward(batch, scale=1.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    check_same_gradients(step.model, oracle)


@pytest.mark.slow
def test_a_compiled_model_takes_documents():
    """D'un seul graphe ; ici, sans générateur de code."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, "drop_rate": 0.0})).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    batch = rows_of()
    with torch.no_grad():
        for starts in (batch.document_starts, batch.document_starts.flip(0)):
            documents = DocumentSpans(starts, model.cfg.n_layers)
            assert torch.equal(compiled(batch.inputs, documents), model(batch.inputs, documents))


def test_another_document_changes_nothing():
    """Au bit près : remplacer un document ne change aucun logit d'un autre."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, "drop_rate": 0.0})).eval()
    step = FusedStep(model, seed=7)
    batch = rows_of()
    targets = batch.targets.clone()
    targets[:, :24] = IGNORED  # seul le dernier document de la première rangée est jugé
    changed = batch.inputs.clone()
    changed[0, :24] = (changed[0, :24] + 1) % BASE["vocab_size"]
    losses = [
        step.loss(ids[:1], targets[:1], batch.document_starts[:1])
        for ids in (batch.inputs, changed)
    ]
    assert torch.equal(*losses)
    plain = [step.loss(ids[:1], targets[:1]) for ids in (batch.inputs, changed)]
    assert not torch.equal(*plain)


@pytest.mark.parametrize("change", [lambda s: s[:, :-1], lambda s: s - 1, lambda s: s + 1])
def test_impossible_documents_are_refused(change):
    """Les noyaux les liraient hors de leurs tableaux."""
    step, _, _ = pair()
    batch = rows_of()
    with pytest.raises(ValueError, match="documents qui commencent"):
        step.loss(batch.inputs, batch.targets, change(batch.document_starts))
    bad = as_batch(batch.inputs, batch.targets, batch.sequence_ids, change(batch.document_starts))
    with pytest.raises(ValueError, match="documents qui commencent"):
        step.forward_backward(bad)


class TestStarts:
    def test_a_separator_begins_its_document(self):
        inputs = torch.tensor([[5, 0, 6, 7, 0, 0], [0, 1, 2, 3, 4, 5]])
        source = TokenArray([1])
        found = document_starts(source, np.array([0, 6]), inputs, 0)
        assert found.tolist() == [[0, 1, 1, 1, 4, 5], [0] * 6]

    def test_one_document_needs_no_mask(self):
        inputs = torch.tensor([[0, 1, 2], [3, 4, 5]])
        assert document_starts(TokenArray([1]), np.array([0, 3]), inputs, 0) is None

    def test_a_source_that_knows_its_documents_decides(self):
        """Une fin de texte à l'intérieur d'une conversation n'en commence pas une autre."""
        rows = [conversation([1, 0, 2, 0]), conversation([3, 0])]
        source = PackedConversations(rows, 7, padding=0)
        inputs, _ = make_batch(source, np.array([0]), 7)
        found = document_starts(source, np.array([0]), inputs, 0)
        assert found.tolist() == [[0, 0, 0, 0, 4, 4, 4]]


def conversation(ids):
    return EncodedConversation(ids=ids, learned=[index > 0 for index in range(len(ids))])


class TestPacking:
    def test_the_fullest_row_that_fits_is_chosen(self):
        assert pack([6, 5, 3, 4, 2, 10], 10) == [[0, 2], [1, 3], [4], [5]]
        assert pack([10, 10], 10) == [[0], [1]]
        assert pack([], 10) == []

    def test_everything_is_kept_once_and_fits(self):
        lengths = np.random.default_rng(0).integers(1, 41, 3000).tolist()
        rows = pack(lengths, 40)
        assert sorted(index for row in rows for index in row) == list(range(3000))
        assert all(sum(lengths[index] for index in row) <= 40 for row in rows)
        assert sum(lengths) / (40 * len(rows)) > 0.97

    def test_first_tokens_are_not_learned(self):
        """La conversation d'avant n'a pas à prédire celle d'après ; le reste s'apprend."""
        rows = [conversation([1, 2, 3]), conversation([4, 5]), conversation([6, 7, 8])]
        source = PackedConversations(rows, 5, padding=0)
        assert source.count == 3
        assert source.read(0, 12).tolist() == [1, 2, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0]
        targets = source.read_targets(0, 12).tolist()
        assert [each for each in targets if each != IGNORED] == [2, 3, 5, 7, 8]
        plain = ConversationTokens(rows, 5, padding=0)
        assert learned_tokens(source, np.array([0, 6]), 5) == learned_tokens(
            plain, np.array([0, 6, 12]), 5
        )


ANSWERS = {"La lampe ?": "Elle brille.", "Le bateau ?": "Il dort ici.", "La nuit ?": "Oui."}
WINDOW = 47


@pytest.fixture
def talks(tmp_path):
    lines = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        for _ in range(8)
        for asked, told in ANSWERS.items()
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def chat_data(path, **changes):
    training = TrainingConfig(
        batch_size=2, stride=WINDOW + 1, train_ratio=0.75, eval_iter=50, **changes
    )
    return training, load_chat_data(path, "simple-v2", window=WINDOW, training=training)


def trainer_of(data, training, engine="autograd", **changes):
    shape = GPTConfig(
        vocab_size=data.tokenizer.vocab_size,
        context_length=64,
        emb_dim=24,
        n_heads=3,
        n_layers=2,
        drop_rate=0.0,
        tie_weights=True,
        qkv_bias=True,
    )
    settings = Settings(
        model=shape,
        window=WINDOW,
        device=torch.device("cpu"),
        prompt=data.opening,
        training=training,
        compute=ComputeConfig(engine=engine, precision="fp32"),
        **changes,
    )
    return build_trainer(settings, data)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_packed_conversations_are_learned_one_by_one(talks, engine):
    """Toutes les conversations d'un coup : perte et gradients de celles qui ont leur rangée."""
    training, packed = chat_data(talks, document_mask=True)
    _, plain = chat_data(talks)
    assert packed.train.count == plain.train.count == 18
    assert packed.train.num_tokens < plain.train.num_tokens
    trainers, losses = [], []
    for data, separate in ((packed, True), (plain, False)):
        whole = replace(
            training,
            batch_size=data.train.num_tokens // (WINDOW + 1),
            document_mask=separate,
            max_steps=1,
        )
        trainer = trainer_of(data, whole, engine)
        losses.append(trainer.engine.forward_backward(trainer.batches(0)[0], scale=1.0).item())
        trainers.append(trainer)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    check_same_gradients(trainers[0].model, trainers[1].model)
    one, other = (trainer.evaluate(lambda: False) for trainer in trainers)
    assert one.val == pytest.approx(other.val, rel=1e-6)
    assert one.train == pytest.approx(other.train, rel=1e-6)


def test_packing_trains_to_the_end(talks):
    training, data = chat_data(talks, document_mask=True, epochs=6, lr=5e-3, eval_freq=4)
    state = trainer_of(data, training).run()
    assert state.val_losses[-1] < 0.7 * state.val_losses[0]


def test_half_then_resume_equals_straight(talks, tmp_path):
    """Le réglage revient à la reprise ; poids et pertes sont les mêmes au bit près."""
    options = {
        **{"chat": talks, "document_mask": True, "tokenizer": "simple-v2", "max_steps": 8},
        **{"context_length": WINDOW, "positions": WINDOW, "emb_dim": 16, "n_heads": 2},
        **{"n_layers": 1, "drop_rate": 0.2, "batch_size": 2, "eval_freq": 3, "device": "cpu"},
        **{"engine": "autograd", "output_dir": tmp_path / "essai"},
    }
    straight = train(**options)
    expected = {name: each.clone() for name, each in straight.model.model.state_dict().items()}
    shutil.rmtree(tmp_path / "essai")
    left = iter(range(9))
    half = train(**options, should_stop=lambda: next(left, None) is None)
    assert not half.complete
    resumed = train(resume=half)
    assert resumed.state.val_losses == straight.state.val_losses
    found = resumed.model.model.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())


def test_a_text_is_masked_between_its_documents(tmp_path):
    """Les lots et les deux évaluations d'un entraînement séparent les documents d'un texte."""
    tokenizer = get_tokenizer("simple-v2", text="un deux trois quatre <|endoftext|>")
    text = "<|endoftext|> un deux trois <|endoftext|> quatre un " * 60
    tokens = TokenArray(tokenizer.encode(text, allowed_special={"<|endoftext|>"}))
    data = TrainingData(
        name="essai", sha256="0", train=tokens, val=tokens, tokenizer=tokenizer, opening="un"
    )
    training = TrainingConfig(batch_size=2, document_mask=True, eval_iter=2)
    trainer = trainer_of(data, training)
    (batch,) = trainer.batches(0)
    marks = batch.inputs == tokenizer.eos_id
    positions = torch.arange(WINDOW) - batch.document_starts
    assert (positions[marks] == 0).all()
    losses = trainer.evaluate(lambda: False)
    source, starts = trainer.evaluate.sets[1]
    inputs, targets = make_batch(source, starts, WINDOW)
    lengths = [_lengths(row, tokenizer.eos_id) for row in inputs]
    with torch.no_grad():
        expected = alone(
            trainer.model, Batch(inputs=inputs, targets=targets, sequence_ids=starts), lengths
        )
    assert losses.val == pytest.approx(expected.item(), rel=1e-6)
    plain = trainer_of(data, replace(training, document_mask=False))
    assert plain.batches(0)[0].document_starts is None
    assert plain.evaluate(lambda: False).val != pytest.approx(expected.item(), rel=1e-6)


def _lengths(row, separator):
    """Les longueurs des documents d'une rangée."""
    cuts = [0, *(place for place in torch.nonzero(row == separator).flatten().tolist() if place)]
    return [b - a for a, b in zip(cuts, [*cuts[1:], len(row)], strict=True)]


def test_a_vocabulary_without_end_of_text_is_refused():
    tokenizer = get_tokenizer("char", text="abc")
    tokens = TokenArray([0, 1, 2] * 60)
    data = TrainingData(
        name="essai", sha256="0", train=tokens, val=tokens, tokenizer=tokenizer, opening="a"
    )
    with pytest.raises(ConfigurationError, match=r"`document_mask` avec le tokenizer char"):
        trainer_of(data, TrainingConfig(document_mask=True))


def test_the_setting_is_kept_only_when_asked():
    """Les points de reprise et les modèles d'avant restent ceux du même entraînement."""
    assert "document_mask" not in TrainingConfig().to_dict()
    assert TrainingConfig(document_mask=True).to_dict()["document_mask"] is True
    with pytest.raises(ConfigurationError, match="document_mask"):
        TrainingConfig(document_mask="oui")
