"""ik_llama.cpp, dont les roues publiées n'ont pas AVX-512 : construit ici, depuis ses sources.

Son graphe de GPT-2 (vu en août 2026) donne à la seconde norme de chaque bloc la formule RMS, et
s'arrête sur `GGML_ASSERT(eps > 0.0f)` : une ligne de `src/graphs/build_gpt2.cpp` est à corriger.

    git clone https://github.com/ikawrakow/ik_llama.cpp && cd ik_llama.cpp
    sed -i 's/ctx0, lctx, model.layers.il..ffn_norm, ffn_inp,/ctx0, lctx, NULL, llm_build_norm( \\
        ctx0, ffn_inp, hparams, model.layers[il].ffn_norm, model.layers[il].ffn_norm_b, \\
        LLM_NORM, cb, il),/' src/graphs/build_gpt2.cpp
    cmake -S . -B build -G Ninja -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    ninja -C build llama

Les noyaux d'attention des têtes d'une autre taille que 64 (`ggml/src/iqk/fa/iqk_fa_*`) font
l'essentiel de la compilation : on peut les ôter de `ggml/src/CMakeLists.txt`, et leurs cas de
`iqk_mul_mat.cpp`. Puis `--ik-llama ik_llama.cpp`. Les structures de son `llama.h` changent
souvent : une courte interface, `_ik_llama.cpp`, est compilée contre celui de ces sources mêmes.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from _gguf import write_scheme
from _peers import Prompts, Run

from gpt_architecture.core.model import GPTModel

ROWS = 32  # séquences au plus, d'un contexte de BATCH_POSITIONS chacune
BATCH_POSITIONS = 64


class IkLlama:
    """Un modèle GGUF lu par ik_llama.cpp, ses poids rangés pour ce processeur (`-rtr`).

    Raises:
        ImportError: les sources n'ont pas été données, ou pas construites.
    """

    def __init__(
        self, model: GPTModel, folder: Path, scheme: str, threads: int, source: Path | None
    ) -> None:
        self._library = _library(source, folder)
        path = folder / f"{scheme}.gguf"
        if not path.is_file():
            write_scheme(model, path, scheme)
        self._path, self._threads, self._context = path, threads, model.cfg.context_length
        self._sessions: dict[bool, Any] = {}

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        session = self._session(several=len(prompts) > 1)
        length = len(prompts[0])
        tokens = self._read(session, prompts, 0)
        produced = [tokens]
        start = time.perf_counter()
        for past in range(length, length + count - 1):
            tokens = self._read(session, [[token] for token in tokens], past)
            produced.append(tokens)
        seconds = time.perf_counter() - start
        return Run(tokens=[list(row) for row in zip(*produced, strict=True)], seconds=seconds)

    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        session = self._session(several=False)
        start = time.perf_counter()
        self._read(session, [prompt], 0)
        return time.perf_counter() - start

    def _session(self, *, several: bool) -> Any:
        """Une séquence longue, ou plusieurs courtes ; vidée."""
        if several not in self._sessions:
            rows, size = (ROWS, BATCH_POSITIONS) if several else (1, self._context)
            found = self._library.ik_open(str(self._path).encode(), self._threads, size, rows)
            assert found, f"ik_llama.cpp ne lit pas {self._path.name}"
            self._sessions[several] = found
        self._library.ik_clear(self._sessions[several])
        return self._sessions[several]

    def _read(self, session: Any, parts: Prompts, past: int) -> list[int]:
        rows, count = len(parts), len(parts[0])
        tokens = (ctypes.c_int * (rows * count))(*chain.from_iterable(parts))
        chosen = (ctypes.c_int * rows)()
        status = self._library.ik_read(session, tokens, rows, count, past, chosen)
        assert status == 0, f"llama_decode : {status}"
        return list(chosen)


@lru_cache(maxsize=1)
def _library(source: Path | None, folder: Path) -> ctypes.CDLL:
    """L'interface, compilée dans `folder` contre les sources et la bibliothèque construite."""
    if source is None:
        raise ImportError("donnez --ik-llama SOURCES, construites comme le dit _ik_llama.py")
    found = sorted(source.glob("**/libllama.so"))
    if not found:
        raise ImportError(f"pas de libllama.so sous {source} ; voir _ik_llama.py")
    try:
        ctypes.CDLL(str(next(source.glob("**/libggml.so"))))  # où qu'on ait déplacé le tout
    except OSError as error:
        raise ImportError(f"construction incomplète ; voir _ik_llama.py : {error}") from error
    library = folder / "ik_llama.so"
    command = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-o", str(library)]
    command += [str(Path(__file__).with_suffix(".cpp"))]
    command += [f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}"]
    command += [str(found[0]), f"-Wl,-rpath,{found[0].parent},--allow-shlib-undefined"]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.ik_open.restype = ctypes.c_void_p
    loaded.ik_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    loaded.ik_clear.argtypes = [ctypes.c_void_p]
    integers = ctypes.POINTER(ctypes.c_int)
    loaded.ik_read.argtypes = [
        *(ctypes.c_void_p, integers, ctypes.c_int, ctypes.c_int, ctypes.c_int, integers)
    ]
    return loaded
