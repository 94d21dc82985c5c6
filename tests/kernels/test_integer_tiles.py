"""Les produits d'entiers : sommes exactes, mêmes bits par toutes les instructions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from llvmlite import binding, ir
from numba import njit

from gpt_architecture.core.grouped_codes import Scheme, dequantize, quantize, rounded
from gpt_architecture.kernels.decode import integer_tiles, matrix_tiles, step_kernels
from gpt_architecture.kernels.decode.dots import DOTS, Pairs, Sdot, Vnni
from gpt_architecture.kernels.decode.forms import FORMS
from gpt_architecture.kernels.decode.linear_kernels import GELU, PLAIN, RESIDUAL
from gpt_architecture.kernels.decode.strip_kernels import linear_integer_
from gpt_architecture.kernels.decode.weights import CHUNK, STRIP_ROWS, IntegerStrips
from gpt_architecture.kernels.runtime.kernel import emitted, launch
from gpt_architecture.kernels.runtime.vector_ir import FEATURES, HAS_AVX512, I64

NAMES = ["codes", "codes_stride", "scales", "scales_stride", "x", "x_stride", "factors", "offsets"]
NAMES += ["factors_stride", "groups", "chunks", "out", "out_stride"]
WAYS = {
    "pairs-8": (Pairs(8), True),
    "pairs-16": (Pairs(16), HAS_AVX512),
    "vnni-8": (Vnni(8), bool(FEATURES.get("avxvnni") or FEATURES.get("avx512vnni"))),
    "vnni-16": (Vnni(16), bool(FEATURES.get("avx512vnni"))),
}
GROUPS, WIDTH, ROWS = 4, 128, 64


def strips_of(bits, rows=ROWS, width=WIDTH):
    torch.manual_seed(0)
    scheme = Scheme(name="int8", group_size=32)
    return IntegerStrips(quantize(torch.randn(rows, width), scheme, bits=bits))


def encoded(x, dots, bits):
    """Codes (M, D) rangés pour `dots`, échelles, départs ; par NumPy."""
    groups = x.reshape(len(x), -1, 32)
    scales = np.abs(groups).max(2) / np.float32(127)
    codes = np.floor(groups / scales[:, :, None] + 0.5).astype(np.int32)
    offsets = (-dots.bias(bits) * codes.sum(2)).astype(np.int32)
    steps = codes.reshape(len(x), -1, 4)
    placed = np.empty_like(steps)
    placed[:, :, list(dots.order)] = steps
    return placed.reshape(len(x), -1).astype(dots.dtype), scales.astype(np.float32), offsets, codes


def run_tile(dots, bits, columns, strips, x):
    """La tuile, compilée pour `dots`, et ce que rendrait une somme exacte."""
    body = f"def body(builder, {', '.join(NAMES)}) -> 'None':\n"
    body += f"    tile(dots, bits, columns, strips, [{', '.join(NAMES)}], builder)\n"
    scope = {"tile": integer_tiles.tile, "dots": dots, "bits": bits}
    scope |= {"columns": columns, "strips": strips}
    exec(body, scope)  # noqa: S102 — `emitted` lit la signature
    one = emitted(scope["body"])
    source = f"def call({', '.join(NAMES)}):\n    one({', '.join(NAMES)})\n"
    exec(source, scope := {"one": one})  # noqa: S102
    call = njit(scope["call"])
    matrix = strips_of(bits)
    codes, scales, offsets, integers = encoded(x, dots, bits)
    weights, shares = matrix.tensors()
    out = np.zeros((strips, columns, STRIP_ROWS), np.float32)
    arrays = (codes, scales, offsets)
    c, s, o = (each.ctypes.data for each in arrays)
    call(
        *(weights.data_ptr(), weights[0].nbytes, shares.data_ptr(), shares[0].nbytes),
        *(c, codes[0].nbytes, s, o, 4 * GROUPS, GROUPS, 1, out.ctypes.data, out[0].nbytes),
    )
    weight = dequantize(matrix.grouped).double().numpy()
    values = (integers * scales[:, :, None].astype(np.float64)).reshape(len(x), -1)
    exact = values @ weight.T  # (columns, lignes)
    return out.transpose(1, 0, 2).reshape(columns, -1), exact[:, : strips * STRIP_ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("bits", integer_tiles.BITS)
@pytest.mark.parametrize(("columns", "strips"), [(1, 1), (1, 4), (3, 1), (4, 2)])
def test_every_instruction_gives_the_same_bits(bits, columns, strips):
    """Chaque façon que cette machine sait exécuter : les sommes exactes, et les mêmes bits."""
    x = np.random.default_rng(0).standard_normal((columns, WIDTH)).astype(np.float32)
    found = {
        name: run_tile(dots, bits, columns, strips, x)
        for name, (dots, known) in WAYS.items()
        if known
    }
    assert found, "la façon de toutes les machines manque"
    first, _ = found["pairs-8"]
    for out, exact in found.values():
        np.testing.assert_allclose(out, exact, rtol=2e-6, atol=1e-5)
        assert np.array_equal(out, first)


@pytest.mark.parametrize("bits", integer_tiles.BITS)
def test_arm_has_its_instruction(bits):
    """Le code d'ARM, compilé d'ici : il emploie `sdot`, quatre produits par voie."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(NAMES))
    function = ir.Function(module, kind, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    integer_tiles.tile(Sdot(), bits, 2, 1, list(function.args), builder)
    builder.ret_void()
    target = binding.Target.from_triple(module.triple)
    machine = target.create_target_machine(cpu="neoverse-n1", features="+dotprod", opt=2)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    assembly = machine.emit_assembly(parsed)
    assert assembly.count("sdot") >= 2 * 4 * CHUNK // 4  # activations, vecteurs, pas


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("width", [128, 77, 1])
def test_the_codes_of_activations(width, group_size):
    """Les codes du noyau sont ceux de `rounded`, au bit près, complétés par des zéros."""
    torch.manual_seed(0)
    form, bits = FORMS["integer"], 8
    matrix = IntegerStrips(
        quantize(torch.randn(3, width), Scheme(name="int8", group_size=group_size))
    )
    (codes, factors, offsets), numbers = form.buffers(matrix, width)
    x = torch.randn(5, width)
    x[1] = 0.0
    x[2] *= 1e-30
    x[3] *= 1e30
    nothing, everyone = torch.empty(0), torch.empty(0, dtype=torch.int64)
    launch(
        step_kernels.encode_rows_,
        5,
        x,
        nothing,
        nothing,
        everyone,
        codes,
        factors,
        offsets,
        *numbers,
    )
    plain = codes[:5].view(torch.int8 if DOTS.dtype is np.int8 else torch.int16)
    plain = plain.view(5, -1, 4)[:, :, list(DOTS.order)].flatten(1)
    values = plain.view(5, -1, group_size) * factors[:5].unsqueeze(2)
    assert (plain.abs() <= 127).all()
    assert not plain[:, width:].any()
    assert torch.equal(offsets[:5], -DOTS.bias(bits) * plain.view(5, -1, group_size).sum(2))
    assert torch.equal(values.flatten(1)[:, :width], rounded(x, group_size))


def prepared(bits, rows, width, active, group=32):
    """Une matrice, et `active` activations codées : (matrice, x codé, échelles, départs)."""
    torch.manual_seed(0)
    scheme = Scheme(name="int8", group_size=group)
    matrix = IntegerStrips(quantize(torch.randn(rows, width), scheme, bits=bits))
    inputs, numbers = FORMS["integer"].buffers(matrix, width)
    nothing, everyone = torch.empty(0), torch.empty(0, dtype=torch.int64)
    x = torch.randn(active, width)
    launch(step_kernels.encode_rows_, active, x, nothing, nothing, everyone, *inputs, *numbers)
    return matrix, inputs


def multiplied(matrix, inputs, active, bias, mode, least):
    """Ce que le noyau rend : (hauteur, lignes)."""
    (rows, _), (codes, *others) = matrix.shape, inputs
    out, block = torch.zeros(FORMS["integer"].height, rows), 32
    residual = torch.ones_like(out) if mode == RESIDUAL else torch.empty(0, 0)
    weights, scales = (torch.tensor([each.data_ptr()]) for each in matrix.tensors())
    launch(
        linear_integer_,
        -(-rows // block),
        *(active, codes, weights, rows, block, bias, mode, out, residual),
        *(*matrix.numbers, least, scales, *others),
        *(torch.empty(0, dtype=torch.int64), torch.empty(0, 0)),  # aucun adaptateur
    )
    assert not out[active:].any()
    return residual - 1 if mode == RESIDUAL else out


@pytest.mark.parametrize("bits", integer_tiles.BITS)
@pytest.mark.parametrize(("rows", "width"), [(50, 200), (16, 32), (3, 5)])
@pytest.mark.parametrize("active", [1, 7, 19])
def test_products_are_those_of_the_codes(bits, rows, width, active):
    """Le noyau entier, restes de lignes, de colonnes et d'activations compris."""
    matrix, inputs = prepared(bits, rows, width, active)
    codes, factors, _ = inputs
    plain = codes.view(torch.int8 if DOTS.dtype is np.int8 else torch.int16)[:active]
    plain = plain.view(active, -1, 4)[:, :, list(DOTS.order)].flatten(1).view(active, -1, 32)
    seen = (plain * factors[:active].unsqueeze(2)).flatten(1)[:, :width].double()
    bias = torch.randn(rows)
    exact = seen @ dequantize(matrix.grouped).double().t() + bias
    for mode in (PLAIN, GELU, RESIDUAL):
        expected = exact
        if mode == GELU:
            expected = torch.nn.functional.gelu(exact, approximate="tanh")
        found = multiplied(matrix, inputs, active, bias, mode, matrix_tiles.NEVER)[:active]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.skipif(
    not matrix_tiles.GRANTED, reason="ce processeur n'a pas AMX, ou n'en permet rien"
)
@pytest.mark.parametrize("bits", integer_tiles.BITS)
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("rows", "width"), [(50, 300), (96, 1100)])
def test_matrix_registers_give_the_same_bits(bits, group, rows, width):
    """Par les registres de matrices ou par les vecteurs : les mêmes bits, restes compris."""
    for active in (1, 7, 16, 17, 33, 128):
        matrix, inputs = prepared(bits, rows, width, active, group)
        bias = torch.randn(rows)
        for mode in (PLAIN, GELU, RESIDUAL):
            known = multiplied(matrix, inputs, active, bias, mode, matrix_tiles.NEVER)
            assert torch.equal(multiplied(matrix, inputs, active, bias, mode, 1), known)


@pytest.mark.skipif(
    not matrix_tiles.GRANTED, reason="ce processeur n'a pas AMX, ou n'en permet rien"
)
def test_matrix_registers_are_shared_with_others():
    """Les produits bf16 de PyTorch, par les mêmes registres des mêmes threads, restent justes."""
    left, right = torch.randn(2, 256, 256).bfloat16()
    matrix, inputs = prepared(8, 96, 128, 33)
    known, product = multiplied(matrix, inputs, 33, torch.empty(0), PLAIN, 1), left @ right
    for _ in range(5):
        assert torch.equal(left @ right, product)
        assert torch.equal(multiplied(matrix, inputs, 33, torch.empty(0), PLAIN, 1), known)


def test_without_their_permission_they_are_never_used(monkeypatch):
    """Un système qui les refuse, ou qui n'est pas Linux : les vecteurs."""
    monkeypatch.setattr(matrix_tiles, "_KNOWN", True)
    monkeypatch.setattr(matrix_tiles.platform, "system", lambda: "Darwin")
    assert not matrix_tiles._granted()
    monkeypatch.setattr(matrix_tiles.platform, "system", lambda: "Linux")
    refusing = SimpleNamespace(syscall=lambda *_: -1)
    monkeypatch.setattr(matrix_tiles.ctypes, "CDLL", lambda *_args, **_options: refusing)
    assert not matrix_tiles._granted()


def test_the_machine_s_way_is_one_it_knows():
    assert isinstance(DOTS, Vnni | Pairs | Sdot)
    assert DOTS.rows <= STRIP_ROWS
