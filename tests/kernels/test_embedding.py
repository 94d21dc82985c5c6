"""L'embedding d'un pas compilé : les bits de PyTorch, quel que soit le rangement des poids."""

import gc
import weakref

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import Scheme, quantize
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.decode.embedding_kernels import embed_rows_
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.kernels.decode.weights import DenseMatrix, GroupedMatrix, IntegerStrips
from gpt_architecture.kernels.runtime.kernel import launch

CFG = {"vocab_size": 53, "context_length": 12, "n_heads": 1, "n_layers": 1, "drop_rate": 0.0}
TOKENS = [0, 52, 16, 15, 31, 52]


def coded(weight, bits, group):
    return quantize(weight, Scheme(name="int8", group_size=group), bits=bits)


LAYOUTS = {"fp32": DenseMatrix}
for bits in (4, 6, 8):
    for group in (32, 128):
        LAYOUTS[f"fichier, {bits} bits, {group}"] = lambda weight, bits=bits, group=group: (
            GroupedMatrix(coded(weight, bits, group))
        )
        LAYOUTS[f"bandes, {bits} bits, {group}"] = lambda weight, bits=bits, group=group: (
            IntegerStrips(coded(weight, bits, group))
        )


@pytest.mark.parametrize("width", [21, 200])
@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_a_row_has_the_bits_of_pytorch(make, width):
    torch.manual_seed(0)
    matrix, positions = make(torch.randn(53, width)), torch.randn(12, width)
    tokens, places = torch.tensor(TOKENS), torch.tensor([3, 0, 11, 5, 5, 7])
    table = torch.tensor([each.data_ptr() for each in matrix.tensors()])
    x = torch.full((len(tokens) + 1, width), 7.0)
    launch(embed_rows_, len(tokens), tokens, places, table, *matrix.layout, positions, x)
    assert torch.equal(x[:-1], matrix.rows(tokens) + positions[places])
    assert (x[-1] == 7.0).all()  # au-delà, rien n'est écrit


@pytest.mark.parametrize("packing", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("token", [-1, 53])
def test_a_token_that_does_not_exist_is_refused(packing, tied, token):
    packed = pack(GPTModel(GPTConfig(**CFG, emb_dim=16, tie_weights=tied)).eval(), packing)
    cache = packed.new_cache(1)
    with pytest.raises(IndexError, match=f"token {token} .* 53"):
        packed(torch.tensor([[3, token]]), cache)
    with pytest.raises(IndexError, match=f"token {token} .* 53"):
        packed.read_uniform([[3, token]], cache)
    assert cache.lengths == [0]


def test_settled_weights_are_not_kept_twice():
    """Tête liée : les pas déjà faits lisent la copie rangée, et l'ancienne matrice est rendue."""
    model = GPTModel(GPTConfig(**CFG, emb_dim=16, tie_weights=True)).eval()
    packed = pack(model)
    cache = packed.new_cache(1)
    before = packed.draft([7], cache, 3), packed.read_uniform([[7]], packed.new_cache(1))
    old = weakref.ref(packed.matrices["tok_emb"])
    packed.settle()
    gc.collect()
    assert old() is None
    assert packed.draft([7], cache, 3) == before[0]
    assert torch.equal(packed.read_uniform([[7]], packed.new_cache(1)), before[1])
