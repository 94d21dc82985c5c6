"""Les contraintes : ce qui est écrit les vérifie, quoi que veuille le modèle."""

import json
import re
import sys

import pytest
import torch
from conftest import FRENCH_TEXT
from decoding_helpers import LetterTokenizer, sharp_model

from gpt_architecture.data.tokenizer import GPT2Tokenizer, SimpleTokenizerV2
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.decoding import grammars
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import build_constraint
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import ConfigurationError, GenerationError, MissingDependencyError

pytest.importorskip("llguidance", reason="contraintes : le paquet llguidance n'est pas installé")
pytest.importorskip("tokenizers", reason="contraintes : le paquet tokenizers n'est pas installé")

REGEXES = [
    r"(oui|non|peut-être)",
    r"[0-9]{2}/[0-9]{2}/[0-9]{4}",
    r"l'(eau|été|île) (est|était) [a-zé]{1,6}\.",
    r"[A-ZÉ][a-zàâéèêëîïôûùüç]{2,7}( [a-zé]{1,4}){0,2}[.!?…]",
    r"«\s?[^»\n]{1,8}\s?»",
    r"(ab|ba)*c?",
    r"👩‍🚀{1,2}|日本(語)?",
]

SCHEMA = {
    "type": "object",
    "properties": {
        "nom": {"type": "string", "maxLength": 6},
        "âge": {"type": "integer", "minimum": 0, "maximum": 120},
        "ville": {"enum": ["Évreux", "Nîmes", "Sète"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["nom", "âge", "ville", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.from_text(FRENCH_TEXT, 330)


def adversary(tokenizer, seed):
    """Un modèle aux goûts arbitraires."""
    return sharp_model(seed, vocab_size=tokenizer.vocab_size, context_length=96)


def write(tokenizer, seed, *, max_tokens=90, **settings):
    hot = {} if settings.get("strategy") == "greedy" else {"temperature": 1.5}
    config = GenerationConfig(
        **{"strategy": "temperature"} | hot | settings, max_tokens=max_tokens, seed=seed
    )
    generator = Generator(adversary(tokenizer, seed % 5), tokenizer)
    ((found,),) = generator.generate(["Le passeur"], config)
    return found


def constraint(tokenizer, **settings):
    size = tokenizer.vocab_size
    return build_constraint(GenerationConfig(**settings), tokenizer, vocab_size=size)


def fits_schema(value):
    return (
        list(value) == ["nom", "âge", "ville", "tags"]
        and isinstance(value["nom"], str)
        and len(value["nom"]) <= 6
        and type(value["âge"]) is int
        and 0 <= value["âge"] <= 120
        and value["ville"] in ("Évreux", "Nîmes", "Sète")
        and 1 <= len(value["tags"]) <= 3
        and all(type(tag) is bool for tag in value["tags"])
    )


class TestOutput:
    @pytest.mark.slow
    @pytest.mark.parametrize("regex", REGEXES)
    @pytest.mark.parametrize("strategy", ["greedy", "temperature"])
    def test_a_regular_expression_always_matches(self, tokenizer, regex, strategy):
        for seed in range(6):
            found = write(tokenizer, seed, regex=regex, strategy=strategy)
            if found.finish == "stop":
                assert re.fullmatch(regex, found.text), found.text
            else:
                assert regex == r"(ab|ba)*c?"  # la seule qui puisse ne pas finir

    @pytest.mark.slow
    def test_choices(self, tokenizer):
        choices = (
            "Paris",
            "Par",
            "a+b (c) [d]",
            "l'été",
            "deux mots\nsur deux lignes",
            "#é\\&~-<>",
        )
        found = {write(tokenizer, seed, choices=choices).text for seed in range(40)}
        assert found <= set(choices)
        assert len(found) > 2

    @pytest.mark.slow
    def test_a_json_schema(self, tokenizer):
        for seed in range(12):
            found = write(tokenizer, seed, json_schema=json.dumps(SCHEMA))
            assert found.finish == "stop"
            assert fits_schema(json.loads(found.text)), found.text
            assert "\n" not in found.text

    @pytest.mark.slow
    def test_the_gpt2_vocabulary(self):
        tokenizer = GPT2Tokenizer()
        found = write(tokenizer, 0, json_schema=json.dumps(SCHEMA))
        assert fits_schema(json.loads(found.text))
        assert write(tokenizer, 1, choices=("été", "hiver")).text in ("été", "hiver")

    def test_a_short_budget_leaves_a_beginning(self, tokenizer):
        whole = r"[0-9]{2}/[0-9]{2}/[0-9]{4}"
        found = write(tokenizer, 0, regex=whole, max_tokens=3)
        assert found.finish == "length"
        assert any(re.fullmatch(whole, found.text + "12/34/5678"[n:]) for n in range(10))

    def test_every_sequence_has_its_own_state(self, tokenizer):
        config = GenerationConfig(
            strategy="temperature", choices=("oui", "non"), max_tokens=8, seed=0, n=6
        )
        (found,) = Generator(adversary(tokenizer, 0), tokenizer).generate(["Le"], config)
        assert all(each.text in ("oui", "non") for each in found)

    def test_with_lookup(self, tokenizer):
        settings = {"regex": r"(le bateau, ){3}", "strategy": "greedy"}
        found = write(tokenizer, 0, lookup=6, lookup_ngram=1, **settings)
        assert found.text == "le bateau, " * 3
        assert found.tokens == write(tokenizer, 0, **settings).tokens
        assert found.speculation.accepted > 0

    def test_with_other_filters(self, tokenizer):
        found = write(tokenizer, 2, regex="[a-z]{9}", strategy="sample", k=3, min_tokens=2)
        assert re.fullmatch("[a-z]{9}", found.text)


class TestMask:
    def test_exactly_the_tokens_that_continue_a_match(self, tokenizer):
        """Comparé à l'énumération de tous les tokens, octets incomplets compris."""
        words = ["été", "étang", "eau", "ê"]
        follower = constraint(tokenizer, choices=tuple(words))
        octets = tokenizer.token_bytes()
        written = b""
        while not follower.is_complete:
            beginnings = {w.encode()[:n] for w in words for n in range(len(w.encode()) + 1)}
            expected = [
                written + token in beginnings and index != tokenizer.eos_id
                for index, token in enumerate(octets)
            ]
            expected[tokenizer.eos_id] = written.decode(errors="replace") in words
            mask = follower.allowed()
            assert mask.tolist() == expected
            token = max(i for i, fine in enumerate(expected) if fine)
            written += octets[token]
            follower.advance(token)
        assert written.decode() in words

    def test_the_end_is_allowed_exactly_where_the_text_may_end(self, tokenizer):
        follower = constraint(tokenizer, regex="ab(cd)*")
        seen = []
        for letter in "abcdcd":
            mask = follower.allowed()
            seen.append(bool(mask[tokenizer.eos_id]))
            follower.advance(tokenizer.encode(letter)[0])
        assert seen == [False, False, True, False, True, False]
        assert bool(follower.allowed()[tokenizer.eos_id])
        assert not follower.is_complete

    def test_stop_ids_are_ends_too(self, tokenizer):
        comma = tokenizer.encode(",")[0]
        follower = constraint(tokenizer, regex="a,+", stop_ids=(comma,))
        assert not follower.allowed()[comma]
        follower.advance(tokenizer.encode("a")[0])
        with pytest.raises(GenerationError, match="regex"):
            follower.allowed()  # la virgule n'est plus du texte

    def test_ignoring_the_end_goes_on_to_the_end_of_the_grammar(self, tokenizer):
        for seed in range(5):
            found = write(tokenizer, seed, regex="[ab]{1,7}", ignore_eos=True)
            assert (found.finish, len(found.text)) == ("stop", 7)

    def test_a_larger_model_vocabulary(self, tokenizer):
        size = tokenizer.vocab_size + 23
        config = GenerationConfig(choices=("oui",))
        mask = build_constraint(config, tokenizer, vocab_size=size).allowed()
        assert mask.shape == (size,)
        assert not mask[tokenizer.vocab_size :].any()

    def test_a_token_against_the_constraint_is_refused(self, tokenizer):
        follower = constraint(tokenizer, choices=("oui",))
        with pytest.raises(GenerationError, match="choices"):
            follower.advance(tokenizer.encode("z")[0])
        assert not follower.is_complete

    def test_no_constraint(self, tokenizer):
        assert constraint(tokenizer) is None


class TestRefusals:
    @pytest.mark.parametrize(
        "settings",
        [
            {"regex": "(abc"},
            {"regex": "a(?=b)"},
            {"regex": r"(a)\1"},
            {"regex": r"[^\s\S]"},
            {"regex": "a\\"},
            {"regex": r"début\b"},
            {"json_schema": "{"},
            {"json_schema": "[1]"},
            {"json_schema": "true"},
            {"json_schema": '{"type": "chameau"}'},
            {"json_schema": '{"enum": []}'},
            {"json_schema": '{"type": "integer", "minimum": 3, "maximum": 2}'},
            {"json_schema": '{"$ref": "http://exemple.fr/schema.json"}'},
            {"json_schema": '{"not": {"type": "string"}}'},
            {"json_schema": "[" * 100_000},
        ],
        ids=lambda settings: str(settings)[:60],
    )
    def test_bad_constraints(self, tokenizer, settings):
        with pytest.raises(ConfigurationError) as refused:
            constraint(tokenizer, **settings)
        message = str(refused.value)
        assert next(iter(settings)) in message
        assert "\n" not in message
        assert len(message) < 600

    @pytest.mark.parametrize("limit", ["initial_lexer_fuel", "max_grammar_size"])
    def test_bounds_on_the_grammar(self, tokenizer, monkeypatch, limit):
        monkeypatch.setitem(grammars.LIMITS, limit, 2)
        with pytest.raises(ConfigurationError, match="json_schema"):
            constraint(tokenizer, json_schema=json.dumps(SCHEMA))

    def test_bounds_on_a_step(self, tokenizer, monkeypatch):
        monkeypatch.setitem(grammars.LIMITS, "max_lexer_states", 40)
        follower = constraint(tokenizer, regex="[a-z]{1,90}é")

        def go_on():
            for _ in range(90):
                follower.advance(int(follower.allowed().nonzero()[0]))

        with pytest.raises(GenerationError, match="regex"):
            go_on()

    def test_a_huge_expression_freezes_nothing(self, tokenizer):
        found = write(tokenizer, 0, regex="((a{999}b?){999}c?){999}", max_tokens=5)
        assert found.finish == "length"
        assert set(found.text) == {"a"}

    def test_words_are_not_bytes(self):
        for tokenizer in (SimpleTokenizerV2.from_text("un deux"), LetterTokenizer()):
            with pytest.raises(ConfigurationError, match="découpe en mots"):
                constraint(tokenizer, regex="a")

    def test_a_stop_string_could_cut_a_match(self, tokenizer):
        with pytest.raises(ConfigurationError, match="stop"):
            constraint(tokenizer, regex="a*", stop=("b",))

    def test_missing_library(self, tokenizer, monkeypatch):
        monkeypatch.setitem(sys.modules, "llguidance", None)
        with pytest.raises(MissingDependencyError, match="llguidance"):
            constraint(tokenizer, regex="a")

    def test_a_ban_that_contradicts_the_constraint(self, tokenizer):
        with pytest.raises(GenerationError):
            write(tokenizer, 0, choices=("zzz",), banned=("z", "zz", "zzz"))

    def test_the_device_of_the_mask(self, tokenizer):
        config = GenerationConfig(choices=("oui",))
        size = tokenizer.vocab_size
        follower = build_constraint(config, tokenizer, vocab_size=size, device="cpu")
        assert follower.allowed().dtype == torch.bool
