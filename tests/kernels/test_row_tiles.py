"""L'attention d'un bloc de requêtes : celle de chacune seule, au bit près."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from llvmlite import binding, ir
from numba import njit

from gpt_architecture.kernels.decode.row_tiles import (
    KEYS,
    TOGETHER,
    TURNED,
    score_keys,
    score_turned,
    turn_keys,
    turned_tile,
)
from gpt_architecture.kernels.decode.step_kernels import QUERIES, STATE_HEADER, attention_
from gpt_architecture.kernels.runtime.arithmetic import FAST
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.vector_ir import I64


@njit(fastmath=FAST)
def scored_alone(q, keys, last, out):
    for t in range(len(q)):
        score_keys(
            q[t].ctypes.data,
            keys.ctypes.data,
            keys.strides[0],
            q.shape[1] // KEYS,
            last,
            out[t].ctypes.data,
        )


@njit(fastmath=FAST)
def scored_together(q, keys, last, turned, out):
    vectors = q.shape[1] // KEYS
    turn_keys(keys.ctypes.data, keys.strides[0], vectors, last, turned.ctypes.data)
    for t in range(0, len(q), TOGETHER):
        score_turned(
            vectors,
            q[t].ctypes.data,
            q.strides[0],
            len(q) - 1 - t,
            turned.ctypes.data,
            out[t].ctypes.data,
            out.strides[0],
        )


@pytest.mark.slow
@pytest.mark.parametrize("vectors", TURNED)
@pytest.mark.parametrize("last", [KEYS - 1, 2])
def test_turned_keys_give_the_bits_of_each_query_alone(vectors, last):
    draw, size = np.random.default_rng(vectors), vectors * KEYS
    q = draw.standard_normal((2 * TOGETHER + 1, size)).astype(np.float32)
    keys = draw.standard_normal((KEYS, size)).astype(np.float32)
    keys[last + 1 :] = np.nan  # au-delà de `last`, rien n'est lu
    alone, together = np.zeros((2, len(q), KEYS), np.float32)
    turned = np.full((size, KEYS), np.nan, np.float32)
    scored_alone(q, keys, last, alone)
    scored_together(q, keys, last, turned, together)
    assert np.array_equal(alone, together)
    exact = q.astype(np.float64) @ keys[: last + 1].T.astype(np.float64)
    np.testing.assert_allclose(alone[:, : last + 1], exact, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("size", [2 * KEYS, 3 * KEYS, 7])
@pytest.mark.parametrize(("past", "count"), [(0, 75), (13, 40), (30, 1), (0, 3)])
def test_a_block_is_the_attention_of_pytorch_and_of_each_query(size, past, count):
    """Toutes les requêtes d'un passage, et les mêmes une par une : mêmes bits, et les bons."""
    torch.manual_seed(0)
    heads, total = 2, past + count
    qkv = torch.randn(total, 3 * heads * size)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(each.view(total, heads, size).transpose(0, 1) for each in qkv.chunk(3, dim=1)),
        is_causal=True,
    )

    def attended(cuts):
        storage, context = torch.zeros(1, 2, 1, heads, total, size), torch.zeros_like(qkv)
        context = context[:, : heads * size].contiguous()
        for start, stop in pairwise(cuts):
            firsts = range(0, stop - start, QUERIES)
            blocks = [(0, start, 0, i, min(i + QUERIES, stop - start)) for i in firsts]
            most = min(QUERIES, stop - start)
            state = [storage.data_ptr(), total, 1, most, *np.ravel(blocks).tolist()]
            assert len(state) > STATE_HEADER
            out = torch.zeros(stop - start, heads * size)
            here = qkv[start:stop].contiguous()
            launch(attention_, len(blocks) * heads, here, out, 0, heads, torch.tensor(state))
            context[start:stop] = out
        return context

    found = attended([0, past, total] if past else [0, total])
    assert torch.equal(found, attended(range(total + 1)))
    found = found.view(total, heads, size).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_it_compiles_for_arm():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    kind = ir.FunctionType(ir.VoidType(), [I64] * (1 + 2 * TOGETHER))
    function = ir.Function(module, kind, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    turned, *places = function.args
    turned_tile(2, [turned, places[:TOGETHER], places[TOGETHER:]], builder)
    builder.ret_void()
    target = binding.Target.from_triple(module.triple)
    machine = target.create_target_machine(cpu="neoverse-n1", opt=2)
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    assert assembly.count("fmla") >= TOGETHER * KEYS  # un vecteur d'ARM en porte quatre : davantage
