"""Les moteurs de décodage que `decode.py` compare, tous sous la même interface.

Chacun reçoit les poids du même GPTModel. Le chronomètre part quand le premier token est choisi :
la lecture de l'invite n'entre pas dans le débit de décodage.

Formes : B lot, T tokens, V vocabulaire.
"""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from _gguf import write_scheme

from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.interop.gguf import gguf_tensors

Prompts = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Une génération gloutonne : les tokens (B × count) et la durée (s) après le premier."""

    tokens: Prompts
    seconds: float


class Engine(Protocol):
    """Un moteur de décodage glouton."""

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Produit `count` tokens après chacune des invites, toutes de même longueur."""
        ...

    def prefill(self, prompt: list[int]) -> float:
        """Secondes pour lire l'invite et choisir un token."""
        ...


class Ours:
    """Ce projet : tout modèle qui offre le `forward` de GPTModel avec cache."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model

    @torch.inference_mode()
    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        ids = torch.tensor(prompts)  # (B, T)
        rows, length = ids.shape
        cache = self.model.new_cache(rows, length + count)
        last = torch.full((rows,), length - 1)
        token = self.model(ids, cache, at=last).argmax(-1)  # (B, 1)
        produced = [token]
        start = time.perf_counter()
        for _ in range(count - 1):
            token = self.model(token, cache).argmax(-1)
            produced.append(token)
        seconds = time.perf_counter() - start
        return Run(tokens=torch.cat(produced, dim=1).tolist(), seconds=seconds)

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        ids = torch.tensor([prompt])
        cache = self.model.new_cache(1, len(prompt) + 1)
        start = time.perf_counter()
        self.model(ids, cache, at=torch.tensor([len(prompt) - 1])).argmax(-1)
        return time.perf_counter() - start


class Streamed:
    """Ce projet, par son `Generator` : ce que `infer` fait, texte et arrêts compris.

    Args:
        model: le modèle.
        lookup: tokens proposés d'avance en relisant le texte ; 0 : aucun.
    """

    def __init__(self, model: CausalLM, *, lookup: int = 0) -> None:
        from gpt_architecture.decoding.generator import Generator

        self._generator = Generator(model, get_tokenizer("gpt2"))
        self._lookup = lookup

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode` ; une seule invite."""
        from gpt_architecture.decoding.config import GenerationConfig

        (prompt,) = prompts
        config = GenerationConfig(max_tokens=count, ignore_eos=True, lookup=self._lookup)
        tokens, moments = [], []
        for piece in self._generator.stream(prompt, config):
            if piece.token is not None:
                tokens.append(piece.token)
                moments.append(time.perf_counter())
        return Run(tokens=[tokens], seconds=moments[-1] - moments[0])

    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        start = time.perf_counter()
        self.decode([prompt], 1)
        return time.perf_counter() - start


class Transformers:
    """GPT2LMHeadModel et son `generate`, tête indépendante, biais de q, k, v nuls."""

    def __init__(self, model: GPTModel) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        cfg = model.cfg
        config = GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_head=cfg.n_heads,
            n_layer=cfg.n_layers,
            tie_word_embeddings=False,
        )
        self._model: Any = GPT2LMHeadModel(config)
        self._model.train(mode=False)
        weights = {
            "transformer.wte.weight": model.tok_emb.weight,
            "transformer.wpe.weight": model.pos_emb.weight,
            "transformer.ln_f.weight": model.final_norm.scale,
            "transformer.ln_f.bias": model.final_norm.shift,
            "lm_head.weight": model.out_head.weight,
        }
        names = {
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        }
        for name, tensor in gguf_tensors(model):
            if name.startswith("blk."):
                _, index, kind, part = name.split(".")
                turned = tensor.T if tensor.dim() == 2 else tensor  # Conv1D range (entrée, sortie)
                weights[f"transformer.h.{index}.{names[kind]}.{part}"] = turned
        self._model.load_state_dict(weights)
        self._model.generation_config.eos_token_id = None

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        moments: list[float] = []

        def note(ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
            moments.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        ids = torch.tensor(prompts)
        found = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            pad_token_id=0,
            stopping_criteria=[note],
        )
        tokens = found[:, ids.size(1) :].tolist()
        return Run(tokens=tokens, seconds=moments[-1] - moments[0])

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        ids = torch.tensor([prompt])
        start = time.perf_counter()
        self._model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
        return time.perf_counter() - start


class CTranslate2:
    """Le `Generator` de CTranslate2 ; `compute` est float32 ou int8."""

    def __init__(self, model: GPTModel, folder: Path, compute: str, threads: int) -> None:
        import ctranslate2

        path = folder / "ctranslate2"
        if not path.is_dir():
            _write_ctranslate2(model, path)
        self._generator: Any = ctranslate2.Generator(
            str(path), device="cpu", compute_type=compute, inter_threads=1, intra_threads=threads
        )

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        moments: list[float] = []

        def note(step: Any) -> bool:
            if step.batch_id == 0:
                moments.append(time.perf_counter())
            return False

        results = self._generate(prompts, count, note)
        tokens = [[int(token) for token in result.sequences[0]] for result in results]
        return Run(tokens=tokens, seconds=moments[-1] - moments[0])

    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        start = time.perf_counter()
        self._generate([prompt], 1, None)
        return time.perf_counter() - start

    def _generate(self, prompts: Prompts, count: int, callback: Any) -> Any:
        return self._generator.generate_batch(
            [[str(index) for index in prompt] for prompt in prompts],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            callback=callback,
        )


def _write_ctranslate2(model: GPTModel, path: Path) -> None:
    """Les poids par l'interface de spécification ; le vocabulaire est celui des identifiants."""
    from ctranslate2.specs import common_spec, transformer_spec

    def array(tensor: torch.Tensor) -> Any:
        return tensor.detach().contiguous().numpy()

    cfg = model.cfg
    spec: Any = transformer_spec.TransformerDecoderModelSpec.from_config(
        cfg.n_layers, cfg.n_heads, pre_norm=True, activation=common_spec.Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = array(model.tok_emb.weight)
    decoder.position_encodings.encodings = array(model.pos_emb.weight)
    decoder.projection.weight = array(model.out_head.weight)
    decoder.layer_norm.gamma = array(model.final_norm.scale)
    decoder.layer_norm.beta = array(model.final_norm.shift)
    tensors = dict(gguf_tensors(model))
    for index, layer in enumerate(decoder.layer):
        places = {
            "attn_norm": layer.self_attention.layer_norm,
            "attn_qkv": layer.self_attention.linear[0],
            "attn_output": layer.self_attention.linear[1],
            "ffn_norm": layer.ffn.layer_norm,
            "ffn_up": layer.ffn.linear_0,
            "ffn_down": layer.ffn.linear_1,
        }
        for kind, place in places.items():
            name = f"blk.{index}.{kind}"
            weight, bias = array(tensors[f"{name}.weight"]), array(tensors[f"{name}.bias"])
            if kind.endswith("norm"):
                place.gamma, place.beta = weight, bias
            else:
                place.weight, place.bias = weight, bias
    end = str(cfg.vocab_size - 1)
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = end
    spec.register_vocabulary([str(index) for index in range(cfg.vocab_size)])
    spec.validate()
    spec.optimize(quantization=None)
    path.mkdir()
    spec.save(str(path))


class LlamaCpp:
    """Le serveur de llama.cpp par xllamacpp ; les durées sont celles de sa propre horloge."""

    def __init__(self, model: GPTModel, folder: Path, scheme: str, threads: int) -> None:
        import xllamacpp

        path = folder / f"{scheme}.gguf"
        if not path.is_file():
            write_scheme(model, path, scheme)
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = model.cfg.context_length
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # ni recopie ni recherche d'anciennes invites
        params.n_ctx_checkpoints = 0
        params.verbosity = 0
        self._server: Any = xllamacpp.Server(params)

    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode` ; une seule invite."""
        (prompt,) = prompts
        found = self._complete(prompt, count)
        assert len(found["tokens"]) == count, found["timings"]
        return Run(tokens=[found["tokens"]], seconds=found["timings"]["predicted_ms"] / 1e3)

    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        timings = self._complete(prompt, 1)["timings"]
        assert timings["prompt_n"] == len(prompt), timings
        return float(timings["prompt_ms"]) / 1e3

    def _complete(self, prompt: list[int], count: int) -> Any:
        request = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": False,
            "ignore_eos": True,
            "return_tokens": True,
        }
        sent = urllib.request.Request(
            f"{self._server.listening_address}/completion",
            data=json.dumps(request).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(sent, timeout=600) as answer:
            return json.load(answer)
