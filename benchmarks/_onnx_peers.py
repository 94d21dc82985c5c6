"""onnxruntime et OpenVINO, sur notre propre export ONNX à cache.

Le graphe exporté donne les logits de chaque position ; un moteur qui génère n'en veut que la
dernière : elle est prise avant la norme finale, pour que la tête ne serve qu'une fois.

Formes : B lot, T tokens, D largeur, V vocabulaire.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _peers import Prompts, Run
from numpy.typing import NDArray

from gpt_architecture.core.model import GPTModel
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.onnx import export_onnx

Kind = str
"""« fp32 », « int8 » ou « int4 »."""

GROUP = 32  # poids par échelle sur quatre bits, comme q4_0 et comme nous


def exported(model: GPTModel, folder: Path) -> Path:
    """L'export à cache, réduit aux logits (B, 1, V) de la dernière position."""
    path = folder / "modele.onnx"
    if path.is_file():
        return path
    import onnx

    content = ModelFile(config=model.cfg, state_dict=model.state_dict(), tokenizer={"name": "gpt2"})
    export_onnx(content, path, cache=True)
    proto = onnx.load(str(path))
    graph, node = proto.graph, onnx.helper.make_node
    for name, value in (("last", -1), ("last_shape", [-1, 1, model.cfg.vocab_size])):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    place = next(i for i, each in enumerate(graph.node) if each.output[0] == "normalized")
    everything = graph.node[place].input[0]
    graph.node[place].input[0] = "last_rows"
    graph.node[-1].input[1] = "last_shape"
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    added = [
        node("Reshape", [everything, "split_shape"], ["every_row"]),  # (B, T, H, K)
        node("Gather", ["every_row", "last"], ["last_heads"], axis=1),  # (B, H, K)
        node("Reshape", ["last_heads", "flat"], ["last_rows"]),  # (B, D)
    ]
    for offset, each in enumerate(added):
        graph.node.insert(place + offset, each)
    onnx.save(proto, str(path))
    return path


class _Stepping:
    """Une boucle gloutonne : `_reset` vide le cache, `_step` lit des tokens à sa suite."""

    _reset: Callable[[], None]

    def _step(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Logits (B, 1, V) de la suite."""
        raise NotImplementedError

    def _read(self, ids: NDArray[np.int64], past: int) -> NDArray[np.int64]:
        """ids (B, T), après `past` positions → le token suivant (B, 1)."""
        rows, count = ids.shape
        places = np.arange(past, past + count, dtype=np.int64)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, past + count), np.int64),
            "position_ids": np.broadcast_to(places, (rows, count)).copy(),
        }
        return np.asarray(self._step(feeds)[:, -1].argmax(-1)[:, None], dtype=np.int64)

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        self._reset()
        ids = np.array(prompts, dtype=np.int64)
        length = ids.shape[1]
        token = self._read(ids, 0)
        produced = [token]
        start = time.perf_counter()
        for past in range(length, length + count - 1):
            token = self._read(token, past)
            produced.append(token)
        seconds = time.perf_counter() - start
        return Run(tokens=np.concatenate(produced, axis=1).tolist(), seconds=seconds)

    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        self._reset()
        start = time.perf_counter()
        self._read(np.array([prompt], dtype=np.int64), 0)
        return time.perf_counter() - start


class OnnxRuntime(_Stepping):
    """onnxruntime : fp32, int8 dynamique (`quantize_dynamic`), int4 (`MatMulNBits`)."""

    def __init__(self, model: GPTModel, folder: Path, kind: Kind, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = _quantized(exported(model, folder), kind)
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._names = [each.name for each in self._session.get_outputs()]
        self._heads = (model.cfg.n_heads, 0, model.cfg.head_dim)
        self._cache: list[Any] = []

    def _reset(self) -> None:
        self._cache = []

    def _step(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        if not self._cache:
            empty = np.zeros((len(feeds["input_ids"]), *self._heads), np.float32)
            self._cache = [self._value(empty) for _ in self._names[1:]]
        given = {name: self._value(array) for name, array in feeds.items()}
        past = (name.replace("present", "past_key_values") for name in self._names[1:])
        given |= dict(zip(past, self._cache, strict=True))
        logits, *self._cache = self._session.run_with_ort_values(self._names, given)
        found: NDArray[Any] = logits.numpy()
        return found


def _quantized(path: Path, kind: Kind) -> Path:
    """Le graphe aux poids de cette précision, écrit à côté."""
    out = path.with_suffix(f".{kind}.onnx")
    if kind == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = {"MatMulConstBOnly": True}
        quantize_dynamic(
            path, out, per_channel=True, weight_type=QuantType.QInt8, extra_options=options
        )
    elif kind == "int4":
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.onnx_model import ONNXModel

        content = ONNXModel(onnx.load(str(path)))
        content.replace_gemm_with_matmul()
        quantizer = MatMulNBitsQuantizer(
            content.model, block_size=GROUP, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(out), use_external_data_format=False)
    else:
        return path
    return out


class OpenVINO(_Stepping):
    """Le moteur d'OpenVINO, cache gardé par lui ; int8 et int4 par NNCF.

    Les activations restent en fp32 : en bf16, son choix d'office sur un processeur qui le
    multiplie, il ne les arrondit plus sur 8 bits et va deux fois moins vite (mesuré).
    """

    def __init__(self, model: GPTModel, folder: Path, kind: Kind, threads: int) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(exported(model, folder))
        _make_stateful(graph, model.cfg.n_heads, model.cfg.head_dim)
        if kind != "fp32":
            graph = _compressed(graph, kind)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request: Any = core.compile_model(graph, "CPU", settings).create_infer_request()

    def _reset(self) -> None:
        self._request.reset_state()

    def _step(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        feeds["beam_idx"] = np.arange(len(feeds["input_ids"]), dtype=np.int32)
        found = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        logits: NDArray[Any] = found[0]
        return logits


def _compressed(graph: Any, kind: Kind) -> Any:
    """Le graphe aux poids de cette précision ; la tête garde 8 bits, comme la nôtre."""
    import nncf

    mode = nncf.CompressWeightsMode
    options = (
        {"mode": mode.INT8_SYM} if kind == "int8" else {"mode": mode.INT4_SYM, "group_size": GROUP}
    )
    with contextlib.redirect_stdout(io.StringIO()):  # ses barres de progression
        return nncf.compress_weights(graph, **options)


def _make_stateful(graph: Any, heads: int, width: int) -> None:
    """Le cache devient un état du moteur, dans la forme où celui-ci le fond dans l'attention.

    C'est ce que fait optimum : chaque état, d'abord vide, passe par un choix de ses lignes
    (`beam_idx`) ; sans lui l'attention n'est pas fondue.
    """
    import openvino
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.passes import MakeStateful, Manager

    apply_moc_transformations(graph, cf=True)
    past = [each for each in graph.inputs if "past_key_values" in each.get_any_name()]
    beams = ops.parameter(openvino.PartialShape([-1]), np.int32, name="beam_idx")
    beams.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([beams])
    zero = ops.constant(0, dtype=np.int64)
    for each in past:
        users = each.get_target_inputs()
        chosen = ops.gather(each, beams, zero)
        for user in users:
            user.replace_source_output(chosen.output(0))
    names = [each.get_any_name() for each in past]
    passes = Manager()
    passes.register_pass(
        MakeStateful({name: name.replace("past_key_values", "present") for name in names})
    )
    passes.run_passes(graph)
    batch = ops.gather(
        ops.shape_of(graph.input("input_ids")), ops.constant([0], dtype=np.int64), zero
    )
    tail = ops.constant([heads, 0, width], dtype=np.int64)
    empty = ops.broadcast(ops.constant(0.0, dtype=np.float32), ops.concat([batch, tail], 0))
    for operator in graph.get_ops():
        if operator.get_type_name() == "ReadValue":
            operator.set_arguments([empty])
    graph.validate_nodes_and_infer_types()
