"""Les petits outils : textes et tokens, pertes pesées par token, générateurs rendus.

Formes : B lot, T tokens, V vocabulaire.
"""

import math

import pytest
import tiktoken
import torch
from torch import nn
from torch.utils.data import DataLoader

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import (
    calc_loss_batch,
    calc_loss_loader,
    evaluation_mode,
    preserved_rng,
    text_to_token_ids,
    token_ids_to_text,
)
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError


@pytest.fixture(scope="module")
def raw_encoding():
    """Un `tiktoken.Encoding` nu : les 256 octets et le token de fin."""
    return tiktoken.Encoding(
        name="octets",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )


class TestText:
    def test_gpt2_ids(self):
        ids = text_to_token_ids("Hello, I am", get_tokenizer("gpt2"))
        assert ids.tolist() == [[15496, 11, 314, 716]]
        assert ids.dtype == torch.int64

    def test_raw_tiktoken_works_as_it_is(self, raw_encoding):
        ids = text_to_token_ids("é<|endoftext|>a", raw_encoding)
        assert ids.tolist() == [[0xC3, 0xA9, 256, ord("a")]]
        assert token_ids_to_text(ids, raw_encoding) == "é<|endoftext|>a"

    def test_end_of_text_is_one_token(self):
        tokenizer = get_tokenizer("gpt2")
        assert text_to_token_ids("a<|endoftext|>", tokenizer)[0, -1] == 50256

    @pytest.mark.parametrize("text", ["", "Ça va — déjà ? 🌊\n", " deux  espaces "])
    def test_round_trip(self, text):
        tokenizer = get_tokenizer("gpt2")
        ids = text_to_token_ids(text, tokenizer)
        assert ids.shape[0] == 1
        assert token_ids_to_text(ids, tokenizer) == text
        assert token_ids_to_text(ids[0], tokenizer) == text

    def test_several_sequences_are_refused(self, raw_encoding):
        with pytest.raises(ValueError, match="2 reçues"):
            token_ids_to_text(torch.zeros(2, 1, dtype=torch.int64), raw_encoding)


# --- Pertes : un modèle dont on connaît les probabilités ------------------------------------

PROBABILITIES = [[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.05, 0.05, 0.9]]
"""Ligne i : loi du token qui suit i."""

# Le dernier lot, incomplet, est le plus surprenant : une moyenne de moyennes le surpèse.
WINDOWS = [
    ([0, 0], [0, 0]),
    ([1, 2], [1, 2]),
    ([2, 0], [2, 1]),
    ([0, 1], [0, 1]),
    ([2, 2], [0, 1]),
]


class Bigram(nn.Module):
    """Les logits (B, T, V) ne dépendent que du token lu."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(PROBABILITIES).log() + 5.0)  # à un décalage près

    def forward(self, idx):
        return self.table[idx]


def nll(windows):
    """Somme des −log p et nombre de tokens, à la main."""
    pairs = [pair for inputs, targets in windows for pair in zip(inputs, targets, strict=True)]
    return -sum(math.log(PROBABILITIES[i][j]) for i, j in pairs), len(pairs)


def make_loader(windows=WINDOWS, batch_size=2, **options):
    """Chargeur de paires (entrée, cible), chacune (B, T) int64."""
    dataset = [(torch.tensor(inputs), torch.tensor(targets)) for inputs, targets in windows]
    return DataLoader(dataset, batch_size=batch_size, **options)


class TestLossBatch:
    def test_is_the_mean_negative_log_likelihood(self):
        inputs, targets = (torch.tensor(rows) for rows in zip(*WINDOWS, strict=True))
        total, tokens = nll(WINDOWS)
        loss = calc_loss_batch(inputs, targets, Bigram(), "cpu")
        assert loss.shape == ()
        assert loss.item() == pytest.approx(total / tokens, abs=1e-6)

    def test_keeps_its_graph(self):
        model = Bigram()
        calc_loss_batch(torch.tensor([[0]]), torch.tensor([[1]]), model, "cpu").backward()
        expected = torch.tensor(PROBABILITIES[0]) - torch.tensor([0.0, 1.0, 0.0])
        torch.testing.assert_close(model.table.grad[0], expected)


class TestLossLoader:
    def test_partial_last_batch_weighs_its_tokens(self):
        total, tokens = nll(WINDOWS)
        loss = calc_loss_loader(make_loader(), Bigram(), torch.device("cpu"))
        assert loss == pytest.approx(total / tokens, abs=1e-6)

        batches = [nll(WINDOWS[start : start + 2]) for start in (0, 2, 4)]
        mean_of_means = sum(total / tokens for total, tokens in batches) / 3
        assert abs(loss - mean_of_means) > 0.1

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
    def test_does_not_depend_on_the_batches(self, batch_size):
        total, tokens = nll(WINDOWS)
        loss = calc_loss_loader(make_loader(batch_size=batch_size), Bigram(), "cpu")
        assert loss == pytest.approx(total / tokens, abs=1e-6)

    @pytest.mark.parametrize(("num_batches", "windows"), [(1, 2), (2, 4), (3, 5), (99, 5)])
    def test_num_batches_is_a_maximum(self, num_batches, windows):
        total, tokens = nll(WINDOWS[:windows])
        loss = calc_loss_loader(make_loader(), Bigram(), "cpu", num_batches=num_batches)
        assert loss == pytest.approx(total / tokens, abs=1e-6)

    def test_empty_loader_is_an_error(self):
        with pytest.raises(DataError, match="aucun lot") as caught:
            calc_loss_loader(make_loader([]), Bigram(), "cpu")
        assert "\n" not in str(caught.value)

    def test_no_batch_asked_is_an_error(self):
        with pytest.raises(DataError, match="aucun lot"):
            calc_loss_loader(make_loader(), Bigram(), "cpu", num_batches=0)

    def test_leaves_no_gradient_and_keeps_the_mode(self):
        model = Bigram()
        calc_loss_loader(make_loader(), model, "cpu")
        assert model.table.grad is None
        assert model.training
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("own_generator", [True, False], ids=["propre", "global"])
    def test_draws_nothing_from_training(self, own_generator):
        """Ni l'ordre des lots à venir, ni le dropout : évaluer ne se voit pas."""
        config = GPTConfig(
            vocab_size=3, context_length=2, emb_dim=4, n_heads=1, n_layers=1, drop_rate=0.5
        )

        def run(evaluations):
            torch.manual_seed(0)
            model = GPTModel(config).train()
            generator = torch.Generator().manual_seed(1) if own_generator else None
            loader = make_loader(WINDOWS * 4, batch_size=1, shuffle=True, generator=generator)
            for _ in range(evaluations):
                calc_loss_loader(loader, model, "cpu", num_batches=3)
            order = [inputs.tolist() for inputs, _ in loader]
            return order, model(torch.tensor([[0, 1]])).tolist()

        assert run(2) == run(0)


class TestPreservedRng:
    def test_restores_the_global_generator(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        with preserved_rng():
            torch.rand(100)
        assert torch.equal(torch.rand(3), expected)

    def test_restores_everything_even_after_an_error(self):
        loaders = [
            make_loader(generator=torch.Generator().manual_seed(seed), shuffle=True)
            for seed in (1, 2)
        ]
        states = [loader.generator.get_state() for loader in loaders]
        everywhere = torch.get_rng_state()

        def disturb():
            for loader in loaders:
                list(loader)
                assert not any(torch.equal(loader.generator.get_state(), s) for s in states)
            torch.rand(1)
            raise KeyError("panne")

        with pytest.raises(KeyError, match="panne"), preserved_rng(*loaders):
            disturb()
        for loader, state in zip(loaders, states, strict=True):
            assert torch.equal(loader.generator.get_state(), state)
        assert torch.equal(torch.get_rng_state(), everywhere)

    def test_loader_without_generator(self):
        state = torch.get_rng_state()
        with preserved_rng(make_loader(shuffle=True)):
            torch.rand(1)
        assert torch.equal(torch.get_rng_state(), state)


class TestEvaluationMode:
    @pytest.fixture
    def model(self):
        """Modèle en entraînement dont une partie est gelée en évaluation."""
        model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(2, 2), nn.Dropout())).train()
        model[1].eval()
        model[1][1].train()
        return model

    def test_restores_mixed_modes(self, model):
        before = [module.training for module in model.modules()]
        assert len(set(before)) == 2
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model.modules()] == before

    def test_restores_after_an_error(self, model):
        before = [module.training for module in model.modules()]
        with pytest.raises(KeyError), evaluation_mode(model):
            raise KeyError
        assert [module.training for module in model.modules()] == before

    def test_nested(self, model):
        with evaluation_mode(model):
            with evaluation_mode(model):
                pass
            assert not model.training
        assert model.training

    def test_a_model_that_does_not_train_is_left_as_it_is(self, model, monkeypatch):
        """Changer le mode de chaque module coûte une milliseconde, à chaque token écrit."""
        model.eval()
        monkeypatch.setattr(type(model), "train", None)
        with evaluation_mode(model):
            assert not model.training
        assert not model.training

    def test_anything_else_has_no_mode(self):
        packed = type("Compacté", (), {"training": True})()
        with evaluation_mode(packed):
            assert packed.training
