"""L'ordre des filtres : celui de chaque projet, et celui que Transformers applique vraiment."""

import re
from pathlib import Path

import pytest
import torch

from gpt_architecture.data.tokenizer import SimpleTokenizerV1, get_tokenizer
from gpt_architecture.decoding.config import ORDERS, GenerationConfig
from gpt_architecture.decoding.pipeline import STAGE_ORDERS, build_pipeline
from gpt_architecture.errors import ConfigurationError, GenerationError

INF = float("inf")
VOCAB = 61
CODES = {"a": [5], " a": [5], "bc": [7, 8], " bc": [6, 8], "\n": [9], "vide": [], " vide": []}
EVERYTHING = {
    "strategy": "sample",
    "temperature": 0.7,
    "k": 20,
    "p": 0.9,
    "min_p": 0.02,
    "typical_p": 0.95,
    "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3,
    "top_n_sigma": 3.0,
    "xtc_probability": 0.5,
    "dry_multiplier": 0.8,
    "dry_breakers": ("\n",),
    "repetition_penalty": 1.3,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "no_repeat_ngram": 3,
    "logit_bias": {11: 1.5},
    "banned": ("a", "bc"),
    "min_tokens": 3,
}

TRANSFORMERS_NAMES = {
    "SequenceBiasLogitsProcessor": "logit_bias",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram",
    "NoBadWordsLogitsProcessor": "banned",
    "MinLengthLogitsProcessor": "min_tokens",  # déduite, avant l'autre, de min_new_tokens
    "MinNewTokensLengthLogitsProcessor": "min_tokens",
    "PrefixConstrainedLogitsProcessor": "contrainte",
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
    "TypicalLogitsWarper": "typical_p",
    "EpsilonLogitsWarper": "epsilon_cutoff",
    "EtaLogitsWarper": "eta_cutoff",
}
OURS_ALONE = {
    "xtc_probability": 0.0,
    "dry_multiplier": 0.0,
    "dry_breakers": GenerationConfig.dry_breakers,
    "top_n_sigma": None,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def build(options, **arguments):
    arguments = {
        "prompt_length": 4,
        "eos_ids": [0],
        "encode": lambda text: CODES[text],
        "generator": torch.Generator().manual_seed(0),
        "vocab_size": VOCAB,
    } | arguments
    return build_pipeline(GenerationConfig(**options), **arguments)


def names(options, **arguments):
    return [stage.name for stage in build(options, **arguments)]


def allow_everything():
    return torch.ones(VOCAB, dtype=torch.bool)


class TestOrders:
    def test_hf(self):
        assert names(EVERYTHING, allowed=allow_everything) == [
            "logit_bias",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "dry",
            "no_repeat_ngram",
            "banned",
            "min_tokens",
            "contrainte",
            "temperature",
            "top_n_sigma",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "xtc",
        ]

    def test_llama_cpp(self):
        assert names(EVERYTHING | {"order": "llama.cpp"}, allowed=allow_everything) == [
            "logit_bias",
            "banned",
            "no_repeat_ngram",
            "min_tokens",
            "contrainte",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "dry",
            "top_n_sigma",
            "top_k",
            "typical_p",
            "top_p",
            "min_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "xtc",
            "temperature",
        ]

    def test_llama_cpp_says_the_same(self):
        peer = pytest.importorskip("xllamacpp", reason="pair : xllamacpp absent")
        ours = {
            "penalties": ("repetition_penalty", "frequency_penalty", "presence_penalty"),
            "typ_p": ("typical_p",),
        }
        expected = [
            stage
            for name in peer.CommonParams().sampling.samplers.split(";")
            for stage in ours.get(name, (name,))
        ]
        assert [name for name in STAGE_ORDERS["llama.cpp"] if name in expected] == expected

    def test_litgpt(self):
        found = names(EVERYTHING | {"order": "litgpt"}, allowed=allow_everything)
        known = ["top_k", "temperature", "top_p"]
        assert [name for name in found if name in known] == known

    def test_vllm(self):
        assert names(EVERYTHING | {"order": "vllm"}, allowed=allow_everything) == [
            "contrainte",
            "banned",
            "no_repeat_ngram",
            "min_tokens",
            "logit_bias",
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "dry",
            "temperature",
            "min_p",
            "top_n_sigma",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            "top_k",
            "top_p",
            "xtc",
        ]

    def test_every_order_has_every_stage(self):
        assert set(STAGE_ORDERS) == set(ORDERS)
        everything = set(names(EVERYTHING, allowed=allow_everything))
        for order in STAGE_ORDERS.values():
            assert len(order) == len(set(order))
            assert set(order) == everything

    def test_the_order_matters(self):
        """Chaud, le noyau de Transformers s'élargit ; celui de llama.cpp ne voit pas la chaleur."""
        logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
        left = {}
        for order in ("hf", "llama.cpp"):
            options = {"strategy": "top_p", "p": 0.85, "temperature": 5.0, "order": order}
            row = logits
            for stage in build(options, vocab_size=4):
                row = stage.process(torch.tensor([[1]]), row)
            left[order] = int((row > -INF).sum())
        assert left == {"hf": 4, "llama.cpp": 2}


def test_the_documented_orders_are_these():
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "decodage.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| | `hf`"))
    table = [
        [cell.strip(" *") for cell in line.split("|")[2:-1]]
        for line in lines[header + 2 :]
        if re.match(r"\| \d+ \|", line)
    ]
    assert dict(zip(ORDERS, map(tuple, zip(*table, strict=True)), strict=True)) == dict(
        STAGE_ORDERS
    )


class TestOnlyWhatActs:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, []),
            ({"strategy": "temperature"}, []),
            ({"strategy": "temperature", "temperature": 0.5}, ["temperature"]),
            ({"strategy": "top_k"}, ["top_k"]),
            ({"strategy": "top_k", "k": VOCAB}, []),
            ({"strategy": "top_p"}, ["top_p"]),
            ({"strategy": "top_p", "p": 1.0}, []),
            ({"strategy": "sample", "k": 5, "p": 0.5}, ["top_k", "top_p"]),
            ({"strategy": "sample", "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0}, []),
            ({"strategy": "sample", "temperature": 0.0, "min_p": 0.1, "k": 5}, []),
            ({"strategy": "mirostat", "temperature": 0.8}, ["temperature"]),
            ({"strategy": "sample", "temperature": 0, "k": 5, "p": 0.5}, []),
            ({"strategy": "greedy", "repetition_penalty": 1.2}, ["repetition_penalty"]),
            ({"strategy": "beam", "no_repeat_ngram": 2}, ["no_repeat_ngram"]),
            ({"strategy": "mirostat", "presence_penalty": 1.0}, ["presence_penalty"]),
            ({"min_tokens": 2}, ["min_tokens"]),
        ],
    )
    def test_stages(self, options, expected):
        assert names(options) == expected

    def test_no_end_to_forbid(self):
        assert names({"min_tokens": 2}, eos_ids=[]) == []
        assert names({"min_tokens": 2}, eos_ids=[VOCAB]) == []

    def test_constraint_alone(self):
        assert names({}, allowed=allow_everything) == ["contrainte"]


class TestTexts:
    def test_banned_with_and_without_a_space(self):
        gpt2 = get_tokenizer("gpt2")
        (stage,) = build({"banned": ("chat", "\n")}, encode=gpt2.encode, vocab_size=gpt2.vocab_size)
        logits = torch.zeros(1, gpt2.vocab_size)
        for text in ("chat", " chat"):
            *before, last = gpt2.encode(text)
            found = stage.process(torch.tensor([[464, *before]]), logits)
            assert found[0, last] == -INF
        assert stage.process(torch.tensor([[464]]), logits)[0, gpt2.encode("\n")[0]] == -INF
        assert stage.process(torch.tensor([[464]]), logits)[0, gpt2.encode(" ")[0]] == 0

    def test_dry_breakers(self):
        (stage,) = build({"dry_multiplier": 1.0, "dry_breakers": ("\n",)})
        zeros = torch.zeros(1, VOCAB)
        assert stage.process(torch.tensor([[1, 2, 3, 1, 2]]), zeros)[0, 3] < 0
        assert torch.equal(stage.process(torch.tensor([[1, 9, 3, 1, 9]]), zeros), zeros)

    def test_breakers_a_tokenizer_cannot_write(self):
        """Les séparateurs par défaut ne gênent pas un vocabulaire de mots."""
        words = SimpleTokenizerV1.from_text("Le passeur leva la lampe")
        assert names({"dry_multiplier": 1.0}, encode=words.encode) == ["dry"]


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("order", "expected"),
        [("hf", -1.0), ("vllm", -1.0), ("litgpt", -1.0), ("llama.cpp", -3.0)],
    )
    def test_prompt_in_frequency(self, order, expected):
        (stage,) = build({"frequency_penalty": 1.0, "order": order}, prompt_length=2)
        found = stage.process(torch.tensor([[3, 3, 3, 1]]), torch.zeros(1, VOCAB))
        assert found[0, 3] == expected

    @pytest.mark.parametrize(
        "name", ["presence_penalty", "frequency_penalty", "repetition_penalty"]
    )
    def test_window(self, name):
        (stage,) = build({name: 2.0, "penalty_window": 1}, prompt_length=1)
        found = stage.process(torch.tensor([[4, 3, 1]]), torch.ones(1, VOCAB))
        assert found[0, 1] < 1
        assert found[0, 3] == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"strategy": "mirostat", "k": 5}, "k est donné avec la stratégie mirostat"),
            ({"strategy": "mirostat", "min_p": 0.1}, "min_p est donné"),
            ({"strategy": "greedy", "min_p": 0.1}, "min_p est donné avec la stratégie greedy"),
            ({"strategy": "beam", "typical_p": 0.1}, "typical_p est donné"),
            ({"strategy": "greedy", "xtc_probability": 0.5}, "xtc_probability est donné"),
            ({"logit_bias": {VOCAB: 1.0}}, f"logit_bias nomme le token {VOCAB}"),
            ({"banned": ("vide",)}, "le texte interdit 'vide' n'a aucun token"),
            ({"strategy": "sample", "typical_p": 0.0}, "typical_p vaut 0"),
        ],
    )
    def test_impossible_together(self, options, message):
        with pytest.raises(ConfigurationError, match=message):
            build(options)

    def test_words_of_another_vocabulary(self):
        with pytest.raises(ConfigurationError, match="banned nomme le token 8"):
            build({"banned": ("bc",)}, vocab_size=8)

    def test_constraint_that_allows_nothing(self):
        (stage,) = build({}, allowed=lambda: torch.zeros(VOCAB, dtype=torch.bool))
        with pytest.raises(GenerationError, match="la contrainte"):
            stage.process(torch.tensor([[1]]), torch.zeros(1, VOCAB))


class TestAgainstTransformers:
    """Ce que `generate()` applique, dans son ordre, sur les logits de son modèle."""

    @pytest.fixture
    def calls(self, monkeypatch):
        """Chaque appel de la liste de Transformers : noms, tokens, logits avant, logits après."""
        transformers = pytest.importorskip("transformers", reason="pair : Transformers absent")
        from transformers.generation.logits_process import LogitsProcessorList

        seen, apply = [], LogitsProcessorList.__call__

        def record(self, input_ids, scores, **kwargs):
            found = apply(self, input_ids, scores.clone(), **kwargs)
            seen.append(([type(p).__name__ for p in self], input_ids.clone(), scores, found))
            return found

        monkeypatch.setattr(LogitsProcessorList, "__call__", record)
        torch.manual_seed(0)
        shape = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_positions=32,
            n_embd=24,
            n_layer=1,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            initializer_range=0.6,
        )
        model = transformers.GPT2LMHeadModel(shape).eval()
        prompts = torch.randint(1, VOCAB, (3, 4))
        allowed = [token for token in range(VOCAB) if token % 7]
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            max_new_tokens=8,
            min_new_tokens=3,
            temperature=0.7,
            top_k=20,
            top_p=0.9,
            min_p=0.02,
            typical_p=0.95,
            epsilon_cutoff=1e-3,
            eta_cutoff=1e-3,
            repetition_penalty=1.3,
            no_repeat_ngram_size=3,
            sequence_bias=[[[11], 1.5]],
            bad_words_ids=[[5], [7, 8], [6, 8]],
            prefix_allowed_tokens_fn=lambda row, tokens: allowed,
        )
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        mask[allowed] = True
        return seen, mask

    def test_same_order(self, calls):
        seen, mask = calls
        expected = list(dict.fromkeys(TRANSFORMERS_NAMES[name] for name in seen[0][0]))
        assert names(EVERYTHING | OURS_ALONE, allowed=lambda: mask) == expected

    def test_same_distributions_at_each_step(self, calls):
        seen, mask = calls
        stages = build(EVERYTHING | OURS_ALONE, allowed=lambda: mask)
        assert len(seen) == 8
        for _, tokens, before, after in seen:
            row = before
            for stage in stages:
                row = stage.process(tokens, row)
            assert torch.equal(row > -INF, after > -INF)
            torch.testing.assert_close(row.softmax(-1), after.softmax(-1))
