"""Les noms que les chapitres du livre de Raschka importent, tous à la racine du paquet."""

import subprocess
import sys

import pytest
import torch
from conftest import FRENCH_TEXT

import gpt_architecture
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ModelFileError

BOOK = (
    *("SimpleTokenizerV1", "SimpleTokenizerV2", "GPTDatasetV1", "create_dataloader_v1"),
    *("MultiHeadAttention", "GPT_CONFIG_124M", "LayerNorm", "GELU", "FeedForward"),
    *("TransformerBlock", "GPTModel", "generate_text_simple", "generate", "text_to_token_ids"),
    *("token_ids_to_text", "calc_loss_batch", "calc_loss_loader", "train_model_simple"),
    *("evaluate_model", "generate_and_print_sample", "plot_losses", "assign"),
    "load_weights_into_gpt",
)


@pytest.mark.process
def test_every_name_is_listed_and_importable_without_torch_first():
    """`dir` les montre avant tout import ; aucun n'a besoin qu'on connaisse son module."""
    code = (
        "import sys, gpt_architecture as g\n"
        "listed = set(dir(g)); assert set(g.__all__) <= listed\n"
        f"assert set({BOOK!r}) <= listed, set({BOOK!r}) - listed\n"
        "assert 'torch' not in sys.modules\n"
        f"from gpt_architecture import {', '.join(BOOK)}\n"
        "assert all(getattr(g, name) is not None for name in g.__all__)\n"
        "from gpt_architecture import *\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="inconnu"):
        gpt_architecture.inconnu  # noqa: B018


class TestGenerate:
    """La fonction du chapitre 5."""

    start = torch.tensor([[1, 2, 3]])

    def test_without_temperature_it_is_greedy(self, tiny_model):
        expected = gpt_architecture.generate_text_simple(tiny_model, self.start, 8, 16)
        assert torch.equal(gpt_architecture.generate(tiny_model, self.start, 8, 16), expected)

    def test_the_end_stops_and_is_not_returned(self, tiny_model):
        whole = gpt_architecture.generate(tiny_model, self.start, 8, 16)
        end = int(whole[0, 5])
        first = whole[0, 3:].tolist().index(end) + 3
        found = gpt_architecture.generate(tiny_model, self.start, 8, 16, eos_id=end)
        assert torch.equal(found, whole[:, :first])

    def test_top_k_and_temperature_together(self, tiny_model):
        """Seuls les k plus probables sortent, et tous sortent à haute température."""
        with torch.no_grad():
            best = set(tiny_model(self.start)[0, -1].topk(3).indices.tolist())
        torch.manual_seed(0)
        many = self.start.expand(300, -1)
        found = gpt_architecture.generate(tiny_model, many, 1, 16, temperature=50.0, top_k=3)
        assert set(found[:, -1].tolist()) == best
        free = gpt_architecture.generate(tiny_model, many, 1, 16, temperature=50.0)
        assert len(set(free[:, -1].tolist())) > 20


class TestOpenAIWeights:
    """`load_weights_into_gpt` et `assign`."""

    def params(self, model):
        """Les poids d'un modèle, rangés comme dans les fichiers d'OpenAI."""

        def linear(module):
            return {"w": module.weight.detach().T.numpy(), "b": module.bias.detach().numpy()}

        def norm(module):
            return {"g": module.scale.detach().numpy(), "b": module.shift.detach().numpy()}

        blocks = []
        for block in model.trf_blocks:
            each = [linear(m) for m in (block.att.W_query, block.att.W_key, block.att.W_value)]
            joined = {
                name: torch.cat([torch.from_numpy(part[name]) for part in each], -1).numpy()
                for name in ("w", "b")
            }
            blocks.append(
                {
                    "attn": {"c_attn": joined, "c_proj": linear(block.att.out_proj)},
                    "mlp": {
                        "c_fc": linear(block.ff.layers[0]),
                        "c_proj": linear(block.ff.layers[2]),
                    },
                    "ln_1": norm(block.norm1),
                    "ln_2": norm(block.norm2),
                }
            )
        return {
            "wte": model.tok_emb.weight.detach().numpy(),
            "wpe": model.pos_emb.weight.detach().numpy(),
            "blocks": blocks,
            **norm(model.final_norm),
        }

    def shape(self, **changes):
        values = {"vocab_size": 61, "context_length": 16, "emb_dim": 24, "n_heads": 3}
        values |= {"n_layers": 2, "drop_rate": 0.0, "qkv_bias": True} | changes
        return GPTConfig(**values)

    @pytest.mark.parametrize("tied", [True, False])
    def test_same_logits(self, tied):
        source = GPTModel(self.shape(tie_weights=True)).eval()
        target = GPTModel(self.shape(tie_weights=tied)).eval()
        gpt_architecture.load_weights_into_gpt(target, self.params(source))
        idx = torch.arange(10)[None]
        with torch.no_grad():
            assert torch.equal(target(idx), source(idx))
        assert (target.out_head.weight is target.tok_emb.weight) is tied

    def test_another_shape_is_said(self):
        source = GPTModel(self.shape(tie_weights=True))
        for changes in ({"n_layers": 3}, {"qkv_bias": False}, {"emb_dim": 12}):
            with pytest.raises(ModelFileError):
                gpt_architecture.load_weights_into_gpt(
                    GPTModel(self.shape(**changes)), self.params(source)
                )

    def test_assign_copies(self):
        right = torch.ones(2, 3)
        found = gpt_architecture.assign(torch.zeros(2, 3), right)
        right.zero_()
        assert bool((found == 1).all())
        with pytest.raises(ModelFileError, match=r"\(3, 2\)"):
            gpt_architecture.assign(torch.zeros(2, 3), torch.ones(3, 2))


CHAPTERS = """
import torch
from gpt_architecture import (
    GPT_CONFIG_124M, GELU, FeedForward, GPTDatasetV1, GPTModel, LayerNorm, MultiHeadAttention,
    SimpleTokenizerV1, SimpleTokenizerV2, TransformerBlock, calc_loss_batch, calc_loss_loader,
    create_dataloader_v1, evaluate_model, generate, generate_and_print_sample,
    generate_text_simple, get_tokenizer, plot_losses, text_to_token_ids, token_ids_to_text,
    train_model_simple,
)

# Chapitre 2 : du texte aux tokens, aux fenêtres, aux embeddings.
words = "le bateau , . <|unk|> <|endoftext|>".split()
vocab = {token: number for number, token in enumerate(sorted(words))}
first, second = SimpleTokenizerV1(vocab), SimpleTokenizerV2(vocab)
assert first.decode(first.encode("le bateau.")) == "le bateau."
assert "<|unk|>" in second.decode(second.encode("le zèbre"))
tokenizer = get_tokenizer("gpt2")  # tiktoken.get_encoding("gpt2"), sans réseau
dataset = GPTDatasetV1(TEXT, tokenizer, 4, 4)
inputs, targets = dataset[0]
assert torch.equal(inputs[1:], targets[:-1])
dataloader = create_dataloader_v1(TEXT, batch_size=8, max_length=4, stride=4, shuffle=False)
inputs, targets = next(iter(dataloader))
token_embeddings = torch.nn.Embedding(50257, 24)(inputs)
assert token_embeddings.shape == (8, 4, 24)

# Chapitre 3 : l'attention.
torch.manual_seed(123)
mha = MultiHeadAttention(24, 24, 4, 0.0, num_heads=2)
context_vecs = mha(token_embeddings)
assert context_vecs.shape == (8, 4, 24)

# Chapitre 4 : le modèle.
cfg = {**GPT_CONFIG_124M, "context_length": 16, "emb_dim": 24, "n_heads": 2, "n_layers": 1}
assert LayerNorm(24)(context_vecs).shape == GELU()(context_vecs).shape == context_vecs.shape
assert FeedForward(cfg)(context_vecs).shape == TransformerBlock(cfg)(context_vecs).shape
torch.manual_seed(123)
model = GPTModel(cfg)
model.eval()
out = generate_text_simple(model=model, idx=text_to_token_ids("Le passeur", tokenizer),
                           max_new_tokens=3, context_size=cfg["context_length"])
assert token_ids_to_text(out, tokenizer).startswith("Le passeur")

# Chapitre 5 : l'entraînement.
split_idx = int(0.9 * len(TEXT))
train_loader = create_dataloader_v1(TEXT[:split_idx], batch_size=2, max_length=16, stride=16,
                                    drop_last=True, shuffle=True, num_workers=0)
val_loader = create_dataloader_v1(TEXT[split_idx:], batch_size=2, max_length=16, stride=16,
                                  drop_last=False, shuffle=False, num_workers=0)
device = torch.device("cpu")
with torch.no_grad():
    before = calc_loss_loader(train_loader, model, device)
    assert abs(before - 10.82) < 0.5
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
train_losses, val_losses, tokens_seen = train_model_simple(
    model, train_loader, val_loader, optimizer, device,
    num_epochs=2, eval_freq=5, eval_iter=1,
    start_context="Le passeur", tokenizer=tokenizer
)
assert train_losses[-1] < before
assert len(train_losses) == len(val_losses) == len(tokens_seen)
losses = evaluate_model(model, train_loader, val_loader, device, eval_iter=1)
assert losses[0] < before
epochs_tensor = torch.linspace(0, 2, len(train_losses))
plot_losses(epochs_tensor, tokens_seen, train_losses, val_losses)
generate_and_print_sample(model, tokenizer, device, "Le passeur")
token_ids = generate(model=model, idx=text_to_token_ids("Le passeur", tokenizer).to(device),
                     max_new_tokens=3, context_size=16, top_k=25, temperature=1.4)
assert token_ids_to_text(token_ids, tokenizer).startswith("Le passeur")
loss = calc_loss_batch(*next(iter(train_loader)), model, device)
loss.backward()
"""
"""Ce que font les chapitres 2 à 5, avec notre ligne d'import et les appels du livre."""


@pytest.mark.slow
def test_the_chapters_run_with_our_import_line(capsys):
    pytest.importorskip("matplotlib", reason="matplotlib n'est pas installé")
    exec(compile(CHAPTERS, "chapitres", "exec"), {"TEXT": FRENCH_TEXT})  # noqa: S102 — le nôtre
    assert "Le passeur" in capsys.readouterr().out
