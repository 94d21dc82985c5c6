"""Nos pertes de préférence et celles de TRL : mêmes valeurs et mêmes gradients, au même lot."""

import warnings

import pytest
import torch
from parity_helpers import random_model, to_transformers
from preference_helpers import shape

from gpt_architecture.config import ObjectiveConfig
from gpt_architecture.data.preferences import PairTokens
from gpt_architecture.data.sampler import make_batch
from gpt_architecture.data.texts.conversations import EncodedConversation
from gpt_architecture.interop.state_map import from_hf
from gpt_architecture.training.preferences import PreferenceBatch, PreferenceObjective
from gpt_architecture.training.step import AutogradEngine

pytest.importorskip("trl", reason="parité : le paquet trl n'est pas installé")
datasets = pytest.importorskip("datasets", reason="parité : TRL lit ses données par datasets")
tokenizers = pytest.importorskip("tokenizers", reason="parité : il en faut un à TRL")
transformers = pytest.importorskip("transformers", reason="parité avec Transformers")
# TRL annonce ses propres changements, et Transformers ce que l'on n'a pas installé
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

WINDOW, PAIRS = 20, 3
CONFIG = shape(context_length=32)


@pytest.fixture(scope="module")
def pairs():
    """Des paires au hasard : une question commune, deux réponses de longueurs inégales."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for count in range(PAIRS):
        question = _ids(4 + count, generator)
        answers = [_ids(length, generator) for length in (3 + 2 * count, 7 - count)]
        rows.append(
            tuple(
                EncodedConversation(
                    ids=question + answer, learned=[False] * len(question) + [True] * len(answer)
                )
                for answer in answers
            )
        )
    return rows


def _ids(length, generator):
    return torch.randint(1, CONFIG.vocab_size, (length,), generator=generator).tolist()


@pytest.fixture(scope="module")
def models():
    """(Le modèle et sa référence, chez nous ; les mêmes chez Transformers.)"""
    policy = random_model(CONFIG)
    base = random_model(CONFIG)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.9)
    return (policy, base), [to_transformers(each) for each in (policy, base)]


@pytest.fixture
def arguments(tmp_path):
    """Ce qu'un entraîneur de TRL demande, sans rien télécharger."""
    vocabulary = {f"m{index}": index for index in range(CONFIG.vocab_size - 1)}
    vocabulary["<|endoftext|>"] = CONFIG.vocab_size - 1
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "m0")),
        **dict.fromkeys(("eos_token", "bos_token", "pad_token"), "<|endoftext|>"),
    )
    row = {"prompt": "m1", "chosen": "m2", "rejected": "m3"}
    common = {"output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "bf16": False}
    return common, {
        "train_dataset": datasets.Dataset.from_list([row, row]),
        "processing_class": tokenizer,
    }


def ours(pairs, models, config):
    """Notre perte, et nos gradients par nom."""
    policy, base = models[0]
    source = PairTokens(pairs, WINDOW, padding=0)
    starts = torch.arange(PAIRS).numpy() * 2 * (WINDOW + 1)
    inputs, targets = make_batch(source, starts, WINDOW)
    objective = PreferenceObjective(config)
    reference = None
    if objective.loss.needs_reference:
        with torch.no_grad():
            log_p = torch.log_softmax(base.eval()(inputs), dim=-1)
        known = targets >= 0
        reference = log_p[known].gather(-1, targets[known].unsqueeze(-1)).squeeze(-1)
    batch = PreferenceBatch(
        inputs=inputs,
        targets=targets,
        sequence_ids=torch.arange(2 * PAIRS),
        reference=reference,
        mean_length=float(source.lengths[:, 0].mean()),
    )
    policy.zero_grad(set_to_none=True)
    loss = AutogradEngine(policy.train(), "cpu", objective=objective).forward_backward(
        batch, scale=1.0
    )
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    return loss, gradients, {name: float(value) for name, value in objective.take().items()}


def rows(pairs, side):
    """Identifiants, attention et étiquettes d'un côté des paires, complétés à droite."""
    longest = max(len(pair[side].ids) for pair in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    attention, answers = torch.zeros_like(ids), torch.zeros_like(ids)
    for index, pair in enumerate(pairs):
        length = len(pair[side].ids)
        ids[index, :length] = torch.tensor(pair[side].ids)
        attention[index, :length] = 1
        answers[index, :length] = torch.tensor(pair[side].learned).long()
    return ids, attention, answers


def compare(found, theirs, loss):
    """Perte et gradients, à 1e-5 près."""
    mine, gradients, _ = found
    theirs.zero_grad(set_to_none=True)
    loss.backward()
    torch.testing.assert_close(mine, loss.detach(), rtol=1e-5, atol=1e-5)
    raw = {name: p.grad for name, p in theirs.named_parameters()}
    expected = from_hf(raw, CONFIG)
    assert sum(float(each.abs().sum()) for each in expected.values()) > 1
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_dpo(pairs, models, arguments):
    from trl import DPOConfig, DPOTrainer

    common, rest = arguments
    policy, base = models[1]
    trainer = DPOTrainer(
        policy, ref_model=base, args=DPOConfig(**common, beta=0.3, max_length=None), **rest
    )
    sides = [rows(pairs, side) for side in (0, 1)]
    width = max(each[0].size(1) for each in sides)
    ids, attention, answers = (
        torch.cat([torch.nn.functional.pad(s[n], (0, width - s[n].size(1))) for s in sides])
        for n in range(3)
    )
    loss = trainer.compute_loss(
        trainer.model,
        {"input_ids": ids, "attention_mask": attention, "completion_mask": answers},
    )
    config = ObjectiveConfig(preferences="p", beta=0.3)
    found = ours(pairs, models, config)
    compare(found, policy, loss)
    metrics = trainer._metrics["eval"]
    for mine, their in {
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "reward_margin": "rewards/margins",
        "reward_accuracy": "rewards/accuracies",
    }.items():
        assert found[2][mine] == pytest.approx(metrics[their][-1], abs=1e-4), mine


def paired_rows(pairs):
    """Le lot qu'attendent les entraîneurs d'ORPO et de CPO."""
    batch = {}
    for side, name in ((0, "chosen"), (1, "rejected")):
        ids, attention, answers = rows(pairs, side)
        batch[f"{name}_input_ids"] = ids
        batch[f"{name}_attention_mask"] = attention
        batch[f"{name}_labels"] = ids.masked_fill(answers == 0, -100)
    return batch


def test_orpo(pairs, models, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    common, rest = arguments
    policy = models[1][0]
    trainer = ORPOTrainer(policy, args=ORPOConfig(**common, beta=0.25), **rest)
    loss, metrics = trainer.get_batch_loss_metrics(policy, paired_rows(pairs))
    found = ours(pairs, models, ObjectiveConfig(preferences="p", preference_loss="orpo", beta=0.25))
    compare(found, policy, loss)
    assert found[2]["reward_margin"] == pytest.approx(metrics["rewards/margins"], abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo(pairs, models, arguments, smoothing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo import CPOConfig, CPOTrainer

    common, rest = arguments
    policy = models[1][0]
    args = CPOConfig(
        **common,
        loss_type="simpo",
        cpo_alpha=0.0,
        beta=2.0,
        simpo_gamma=0.6,
        label_smoothing=smoothing,
    )
    trainer = CPOTrainer(policy, args=args, **rest)
    loss, metrics = trainer.get_batch_loss_metrics(policy, paired_rows(pairs))
    config = ObjectiveConfig(
        preferences="p", preference_loss="simpo", gamma=0.6, label_smoothing=smoothing
    )
    found = ours(pairs, models, config)
    compare(found, policy, loss)
    assert found[2]["reward_margin"] == pytest.approx(metrics["rewards/margins"], abs=1e-4)
