"""Ce que coûte chaque format exporté : octets, perplexité, premier choix gardé ; et llama-quantize.

Chaque fichier est écrit, puis relu : un GGUF par ce projet, un ONNX par onnxruntime. Les mêmes
fenêtres du texte donnent sa perplexité, et la part des positions où son token le plus probable est
celui du modèle fp32. Avec --libllama, le fichier f32 est aussi quantifié par llama.cpp lui-même
(`llama_model_quantize`, ce qu'appelle llama-quantize) et ses tenseurs comparés aux nôtres, octet
par octet.

    python benchmarks/exports.py --model FICHIER --data TEXTE [--libllama DOSSIER] [--quick]

DOSSIER contient libllama et libggml-base ; le paquet npm @node-llama-cpp/linux-x64 en a.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from _machine import announce
from _measure import Row, absent, french, lone_row, write_rows
from numpy.typing import NDArray

from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.formats.model_file import ModelFile, read_model
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.gguf_layout import GGUFType
from gpt_architecture.interop.gguf_read import read_gguf
from gpt_architecture.interop.onnx import export_onnx

Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Identifiants (1, T) → logits (1, T, V)."""

SHARE = 0.1  # la fin du texte, que l'entraînement n'a pas lue
WINDOWS = 100
FILE_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2, "q4_K_M": 15, "q5_K_M": 17, "q6_K": 18}
"""Nos types → `llama_ftype`."""


def windows(content: ModelFile, text: str, count: int) -> NDArray[np.int64]:
    """Des fenêtres de la fin du texte (n, T + 1), à intervalles égaux."""
    size = min(content.metadata.get("window", 1024), content.config.context_length)
    ids = tokenizer_from_dict(content.tokenizer).encode(text[int((1 - SHARE) * len(text)) :])
    starts = np.linspace(0, len(ids) - size - 1, count).astype(int)
    return np.array([ids[start : start + size + 1] for start in starts], dtype=np.int64)


def torch_logits(content: ModelFile) -> Logits:
    """Celles du modèle d'ici."""
    model = content.build().eval()

    def logits(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = model(torch.from_numpy(ids)).numpy()
        return found

    return logits


def onnx_logits(path: Path) -> Logits:
    """Celles d'onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def logits(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["logits"], {"input_ids": ids})[0]
        return found

    return logits


def judged(logits: Logits, given: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
    """La perte moyenne (nats par token), et le premier choix à chaque position."""
    losses, choices = list[float](), []
    for row in given:
        found = torch.from_numpy(logits(row[None, :-1])[0])
        wanted = torch.from_numpy(row[1:])
        losses.append(float(torch.nn.functional.cross_entropy(found.double(), wanted)))
        choices.append(found.argmax(dim=1).numpy())
    return float(np.mean(losses)), np.concatenate(choices)


def exports(content: ModelFile, folder: Path) -> Iterator[tuple[str, Path, Callable[[], Logits]]]:
    """Chaque format : son nom, son fichier, écrit, et de quoi le relire."""
    for dtype in get_args(GGUFType):
        path = folder / f"{dtype}.gguf"
        start = time.perf_counter()
        export_gguf(content, path, dtype=dtype)
        print(f"  {path.name} écrit en {french(time.perf_counter() - start)} s", flush=True)
        yield f"GGUF {dtype}", path, lambda path=path: torch_logits(read_gguf(path))  # type: ignore[misc]
    for quant in (None, "int8"):
        path = folder / f"{quant or 'fp32'}.onnx"
        export_onnx(content, path, quant="int8" if quant else None)
        yield f"ONNX {quant or 'fp32'}", path, lambda path=path: onnx_logits(path)  # type: ignore[misc]


def measure(content: ModelFile, text: str, folder: Path, count: int) -> list[Row]:
    """Octets, perte et premier choix de chaque format."""
    given = windows(content, text, count)
    exact, first = judged(torch_logits(content), given)
    print(f"modèle fp32 : perplexité {french(float(np.exp(exact)), 3)}, {first.size} positions")
    rows = list[Row]()
    for name, path, opened in exports(content, folder):
        try:
            loss, choices = judged(opened(), given)
        except ImportError as error:
            print(absent(name, error))
            continue
        size, same = path.stat().st_size, float((choices == first).mean())
        print(
            f"{name:<12} {french(size / 1e6):>8} Mo   perplexité {french(float(np.exp(loss)), 3)}"
            f"   perte {french(loss - exact, 4)} de plus   premier choix {french(100 * same)} %",
            flush=True,
        )
        rows.append(lone_row("taille", name, [size], "octets", lower=True))
        rows.append(lone_row("perte ajoutée", name, [loss - exact], "nats/token", lower=True))
        rows.append(lone_row("premier choix gardé", name, [same], "part"))
    return rows


class Quantizer:
    """`llama_model_quantize`, d'une libllama déjà construite."""

    class Params(ctypes.Structure):
        """Ses réglages : fils, types, six oui ou non, quatre pointeurs."""

        _fields_ = (
            *((name, ctypes.c_int32) for name in ("threads", "ftype", "head", "embedding")),
            *((f"flag{rank}", ctypes.c_bool) for rank in range(6)),
            *((f"pointer{rank}", ctypes.c_void_p) for rank in range(4)),
        )

    def __init__(self, folder: Path) -> None:
        found = {each.name: each for each in sorted(folder.glob("lib*.so*"))}
        ctypes.CDLL(str(found["libggml-base.so"]), mode=ctypes.RTLD_GLOBAL)
        name = next(each for each in found if each.startswith("libllama."))
        self._library: Any = ctypes.CDLL(str(found[name]))
        self._library.llama_model_quantize_default_params.restype = self.Params
        self._silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda *_said: None
        )
        self._library.llama_log_set(self._silence, None)

    def __call__(self, source: Path, dest: Path, dtype: str) -> None:
        """Quantifie `source` dans `dest`."""
        params = self._library.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[dtype]
        paths = (str(source).encode(), str(dest).encode())
        assert self._library.llama_model_quantize(*paths, ctypes.byref(params)) == 0


def compare(folder: Path, library: Path) -> list[Row]:
    """Les tenseurs de nos fichiers, contre ceux que llama.cpp fait du nôtre en f32."""
    import gguf

    def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
        return {
            each.name: (each.tensor_type.name, each.data.tobytes())
            for each in gguf.GGUFReader(path).tensors
        }

    quantize, rows = Quantizer(library), list[Row]()
    for dtype in FILE_TYPES:
        quantize(folder / "f32.gguf", folder / "pair.gguf", dtype)
        ours, peer = tensors(folder / f"{dtype}.gguf"), tensors(folder / "pair.gguf")
        same = sum(ours.get(name) == each for name, each in peer.items())
        print(f"{dtype} : {same} tenseurs sur {len(peer)} ont les octets de llama-quantize")
        rows.append(lone_row("tenseurs identiques", dtype, [same / len(peer)], "part"))
    return rows


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="modèle entraîné")
    parser.add_argument("--data", required=True, help="son texte")
    parser.add_argument("--libllama", type=Path, help="dossier de libllama et libggml-base")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    options = parser.parse_args()
    announce()
    content, text = read_model(options.model), load_corpus([options.data]).text
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        rows = measure(content, text, folder, WINDOWS // 10 if options.quick else WINDOWS)
        if options.libllama is None:
            print("pair absent : llama-quantize ; donnez --libllama")
        else:
            rows += compare(folder, options.libllama)
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
