"""Les propositions du modèle lui-même : ce qu'un texte seul y gagne, hors du service.

Questions : combien de tokens par seconde avec et sans elles, en glouton et au tirage ? Combien en
sont gardées ? Que reste-t-il du gain au premier texte, qui paie la copie qui propose ?

    python benchmarks/drafts.py --model FICHIER [--prompt TEXTE] [--widen] [--threads N]
        [--turns N] [--only QUESTION …] [--json FICHIER]

Le modèle doit être entraîné : des poids au hasard ne disent rien de ce qui est gardé. `--widen`
donne à un petit modèle la forme de GPT-2 124M sans changer ce qu'il calcule : sa largeur est
répétée, des blocs nuls le prolongent, des tokens sans texte complètent son vocabulaire. Un passage
coûte alors celui de GPT-2, et les textes sont ceux du petit.

Avec et sans alternent dans un même processus et doivent écrire les mêmes tokens. Le rapport est la
médiane de ceux des passages ; son étendue suit.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from _machine import announce
from _measure import Row, alternate, compare, french, write_rows
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT, SelfDraft, self_draft
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.decoding.speculative import SpeculativeDecoder
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.kernels.decode.packed import pack

KINDS = {
    "glouton": GenerationConfig(),
    "tirage": GenerationConfig(strategy="top_p", temperature=0.8, p=0.9),
    "chaud": GenerationConfig(strategy="temperature", temperature=1.2),
}
"""Façons d'écrire : le plus probable, température 0,8 et top-p 0,9, température 1,2."""

FIRST = "premier"  # le premier texte d'un modèle, au tirage
WITH, WITHOUT = "avec propositions", "sans"


@dataclass(kw_only=True)
class Texts:
    """De quoi écrire des textes d'un début, et ce qu'ils ont donné.

    Attributes:
        runs: textes écrits, par façon.
        tokens: leurs tokens, par graine.
        counts: propositions faites, gardées, passages et tokens, avec propositions.
    """

    tokenizer: Tokenizer
    prompt: list[int]
    window: int
    config: GenerationConfig
    runs: Counter[str] = field(default_factory=Counter)
    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def size(self) -> int:
        """Tokens d'un texte : il emplit la fenêtre."""
        return self.window - len(self.prompt)

    def next_config(self, name: str) -> GenerationConfig:
        """Le n-ième texte de chaque façon a la graine n."""
        seed = self.runs[name]
        self.runs[name] += 1
        return replace(self.config, max_tokens=self.size, ignore_eos=True, seed=seed)

    def note(self, config: GenerationConfig, tokens: tuple[int, ...]) -> None:
        """Vérifie qu'un texte ne dépend pas des propositions."""
        assert config.seed is not None
        assert self.tokens.setdefault(config.seed, tokens) == tokens, "un texte a changé"

    def seconds(self, model: CausalLM, proposer: SelfDraft | None) -> float:
        """Durée d'un texte, la copie étant faite."""
        config = self.next_config(WITHOUT if proposer is None else WITH)
        size = model.cfg.vocab_size
        sequence = Continuation(self.prompt, config, self.tokenizer, vocab_size=size)
        decoder = SpeculativeDecoder(
            model, sequence, proposer, window=self.window, most=MAX_SELF_DRAFT
        )
        start = time.perf_counter()
        for _ in decoder:
            pass
        seconds = time.perf_counter() - start
        self.note(config, tuple(sequence.tokens))
        if proposer is not None:
            stats = decoder.stats
            self.counts += Counter(
                proposed=stats.proposed,
                accepted=stats.accepted,
                passes=stats.passes,
                tokens=stats.tokens,
            )
        return seconds

    def first_seconds(self, model: GPTModel, name: str) -> float:
        """Durée du premier texte d'un modèle qu'on vient de compacter, comme par `infer`."""
        config = self.next_config(name)
        drafts = MAX_SELF_DRAFT if name == WITH else 0
        generator = Generator(pack(model), self.tokenizer, window=self.window, drafts=drafts)
        start = time.perf_counter()
        ((found,),) = generator.generate([self.prompt], config)
        seconds = time.perf_counter() - start
        self.note(config, found.tokens)
        return seconds


def widened(model: GPTModel, shape: GPTConfig) -> GPTModel:
    """Un modèle de forme `shape` qui calcule ce que calcule `model`, plus petit.

    Une largeur répétée r fois a la même moyenne et la même variance ; un produit par W / r, répétée
    dans les deux sens, donne donc le même résultat, répété.
    """
    times = shape.emb_dim // model.cfg.emb_dim
    state = model.state_dict()

    def spread(name: str, tensor: Tensor) -> Tensor:
        if name in ("tok_emb.weight", "pos_emb.weight"):
            return tensor.repeat(1, times)
        if name == "out_head.weight":
            return tensor.repeat(1, times) / times
        return tensor.repeat(times, times) / times if tensor.dim() == 2 else tensor.repeat(times)

    wide = GPTModel(shape).eval().requires_grad_(False)
    for name, target in wide.state_dict().items():
        if name in state:
            found = spread(name, state[name])
            target[: len(found)] = found
        elif ".att.out_proj." in name or ".ff.layers.2." in name:
            target.zero_()  # un bloc de plus, qui n'ajoute rien
    return wide


def wide_shape(cfg: GPTConfig) -> GPTConfig:
    """La forme de GPT-2 124M, si elle est un multiple de la sienne."""
    shape = replace(GPTConfig(), qkv_bias=cfg.qkv_bias, tie_weights=False, drop_rate=0.0)
    same_heads = shape.emb_dim * cfg.n_heads == shape.n_heads * cfg.emb_dim
    if shape.emb_dim % cfg.emb_dim or not same_heads or cfg.inner_width != 4 * cfg.emb_dim:
        raise SystemExit(f"--widen : {cfg} ne se répète pas dans {shape}")
    return shape


def print_rows(name: str, seconds: dict[str, list[float]], texts: Texts) -> list[Row]:
    """Imprime le tableau d'une façon d'écrire et en rend les lignes."""
    speeds = {way: [texts.size / each for each in values] for way, values in seconds.items()}
    question = f"Un texte de {texts.size} tokens, propositions du modèle, {name}"
    rows, counts = compare(question, speeds, "tok/s", WITH, [WITHOUT]), texts.counts
    if not counts["proposed"]:
        return rows
    kept, each = counts["accepted"] / counts["proposed"], counts["tokens"] / counts["passes"]
    print(f"gardées : {french(100 * kept, 0)} % ; {french(each)} tokens par passage", flush=True)
    return [row | {"kept": kept} for row in rows]


def measure(model: GPTModel, texts: dict[str, Texts], turns: int) -> list[Row]:
    """Les lignes des textes demandés."""
    packed = pack(model)
    packed.settle()
    proposer = self_draft(packed)
    assert proposer is not None
    rows: list[Row] = []
    for name, each in texts.items():
        if name == FIRST:
            runs = {way: partial(each.first_seconds, model, way) for way in (WITH, WITHOUT)}
        else:
            ways = {WITH: proposer, WITHOUT: None}
            runs = {way: partial(each.seconds, packed, found) for way, found in ways.items()}
        rows += print_rows(name, alternate(runs, turns, retries=0), each)
    return rows


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="modèle entraîné")
    parser.add_argument("--prompt", default="To be, or not to be", help="début des textes")
    parser.add_argument("--widen", action="store_true", help="lui donner la forme de GPT-2 124M")
    parser.add_argument("--threads", type=int, default=2, help="fils")
    parser.add_argument("--turns", type=int, default=5, help="textes de chaque façon")
    questions = (*KINDS, FIRST)
    parser.add_argument("--only", nargs="+", choices=questions, default=questions, help="textes")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    content = read_model(arguments.model)
    tokenizer = tokenizer_from_dict(content.tokenizer)
    model = content.build()
    window = min(content.metadata.get("window") or model.cfg.context_length, 512)
    if arguments.widen:
        model = widened(model, wide_shape(model.cfg))
    prompt = tokenizer.encode(arguments.prompt)
    texts = {
        name: Texts(
            tokenizer=tokenizer,
            prompt=prompt,
            window=window,
            config=KINDS["tirage" if name == FIRST else name],
        )
        for name in arguments.only
    }
    size = f"{model.num_parameters():,}".replace(",", " ")
    announce()
    print(f"{size} paramètres en fp32")
    write_rows(arguments.json, measure(model, texts, arguments.turns))


if __name__ == "__main__":
    main()
