"""Tokenizers : le BPE de GPT-2, les deux tokenizers simples, le point d'entrée commun."""

import base64
import hashlib
import importlib.util
import json
from importlib import resources

import pytest
from conftest import FRENCH_TEXT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data import tokenizer as tokenizer_module
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import (
    UNKNOWN,
    ByteTokenizer,
    GPT2Tokenizer,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    get_tokenizer,
    tokenizer_from_dict,
)
from gpt_architecture.data.tokenizers import gpt2 as gpt2_module
from gpt_architecture.data.tokenizers.gpt2 import GPT2_RANKS_SHA256
from gpt_architecture.data.tokenizers.simple import split_words
from gpt_architecture.errors import MissingDependencyError, TokenizerError

property_test = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
wordy_text = st.text(
    st.one_of(
        st.sampled_from(list(" \t\n,.:;?!_\"'()«»…’—-<|>abé\u00a0\u2028")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def gpt2():
    return get_tokenizer("gpt2")


def ranks_bytes():
    return resources.files("gpt_architecture.data").joinpath("assets/gpt2.tiktoken").read_bytes()


@pytest.fixture
def without_tiktoken(monkeypatch):
    """Fait comme si tiktoken n'était pas installé, et lui seul."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        tokenizer_module.importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "tiktoken" else find_spec(name, package),
    )


class TestGPT2:
    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("", []),
            ("Hello, I am", [15496, 11, 314, 716]),
            ("Every effort moves you", [6109, 3626, 6100, 345]),
            ("Akwirw ier", [33901, 86, 343, 86, 220, 959]),
        ],
    )
    def test_known_ids(self, gpt2, text, ids):
        assert gpt2.encode(text) == ids
        assert gpt2.decode(ids) == text

    def test_vocabulary_and_end_of_text(self, gpt2):
        assert (gpt2.name, gpt2.vocab_size, gpt2.eos_id) == ("gpt2", 50257, 50256)
        assert gpt2.decode([gpt2.eos_id]) == END_OF_TEXT

    def test_embedded_ranks_are_openai_s(self):
        data = ranks_bytes()
        assert GPT2_RANKS_SHA256 == (
            "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
        )
        assert hashlib.sha256(data).hexdigest() == GPT2_RANKS_SHA256
        pairs = [line.split() for line in data.splitlines()]
        assert [int(rank) for _, rank in pairs] == list(range(50256))
        tokens = {base64.b64decode(token) for token, _ in pairs}
        assert len(tokens) == 50256
        assert {bytes([value]) for value in range(256)} <= tokens  # tout octet est codable

    def test_damaged_ranks_are_refused(self, monkeypatch):
        """L'empreinte est vérifiée, et non seulement écrite."""
        monkeypatch.setattr(gpt2_module, "GPT2_RANKS_SHA256", "0" * 64)
        gpt2_module._gpt2_encoding.cache_clear()
        with pytest.raises(TokenizerError, match="abîmés"):
            GPT2Tokenizer()
        monkeypatch.undo()
        assert GPT2Tokenizer().vocab_size == 50257  # l'échec n'est pas resté en mémoire

    def test_special_token_is_recognised_when_allowed(self, gpt2):
        text = f"Hello, do you like tea? {END_OF_TEXT} In the sunlit terraces"
        ids = gpt2.encode(text, allowed_special={END_OF_TEXT})
        assert ids[:9] == [15496, 11, 466, 345, 588, 8887, 30, 220, 50256]
        assert ids[9:] == [554, 262, 4252, 18250, 8812, 2114]
        assert gpt2.encode(text, allowed_special="all") == ids
        assert gpt2.decode(ids) == text

    def test_special_token_is_plain_text_otherwise(self, gpt2):
        ids = gpt2.encode(END_OF_TEXT)
        assert ids == [27, 91, 437, 1659, 5239, 91, 29]
        assert gpt2.decode(ids) == END_OF_TEXT

    @pytest.mark.parametrize("ids", [[50257], [-1], [15496, 60000]])
    def test_id_out_of_range_names_it(self, gpt2, ids):
        with pytest.raises(TokenizerError, match=str(ids[-1])) as caught:
            gpt2.decode(ids)
        assert "50256" in caught.value.expected

    def test_partial_character_becomes_replacement(self, gpt2):
        first, *_ = gpt2.encode("🦉")
        assert gpt2.decode([first]) == "\ufffd"

    @property_test
    @given(any_text)
    def test_round_trip_on_any_text(self, gpt2, text):
        ids = gpt2.encode(text)
        assert gpt2.decode(ids) == text
        assert all(0 <= token < 50256 for token in ids)

    @property_test
    @given(any_text, any_text)
    def test_round_trip_around_the_special_token(self, gpt2, before, after):
        text = before + END_OF_TEXT + after
        with_special = gpt2.encode(text, allowed_special={END_OF_TEXT})
        assert with_special.count(50256) == text.count(END_OF_TEXT)
        assert 50256 not in gpt2.encode(text)
        assert gpt2.decode(with_special) == gpt2.decode(gpt2.encode(text)) == text

    @property_test
    @given(any_text)
    def test_same_ids_as_tiktoken_s_own_pattern(self, gpt2, text):
        """Notre motif et celui que tiktoken publie découpent de même."""
        openai = pytest.importorskip("tiktoken_ext.openai_public", reason="motif de tiktoken")
        pattern = getattr(openai, "r50k_pat_str", None)
        if pattern is None:
            pytest.skip("ce tiktoken ne publie pas son motif")
        assert reference_encoding(pattern).encode_ordinary(text) == gpt2.encode(text)

    @pytest.mark.slow
    @property_test
    @given(text=any_text)
    def test_the_bytes_of_tokens_make_the_text(self, gpt2, text):
        octets = gpt2.token_bytes()
        assert b"".join(octets[token] for token in gpt2.encode(text)) == text.encode()
        assert (len(octets), octets[gpt2.eos_id]) == (gpt2.vocab_size, END_OF_TEXT.encode())

    def test_words_have_no_bytes(self, gpt2):
        assert isinstance(gpt2, ByteTokenizer)
        assert not isinstance(SimpleTokenizerV1.from_text("un deux"), ByteTokenizer)


_references = {}


def reference_encoding(pattern):
    """Un `tiktoken.Encoding` aux mêmes rangs et au motif donné, construit une fois."""
    import tiktoken

    if pattern not in _references:
        pairs = (line.split() for line in ranks_bytes().splitlines())
        _references[pattern] = tiktoken.Encoding(
            name="reference",
            pat_str=pattern,
            mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in pairs},
            special_tokens={},
        )
    return _references[pattern]


class TestSplit:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Hello, world. Is this-- a test?", "Hello|,|world|.|Is|this|--|a|test|?"),
            ("L'eau — dit-il", "L|'|eau|—|dit-il"),
            ("«Oui», (non)…", "«|Oui|»|,|(|non|)|…"),
            ("a_b;c:d!", "a|_|b|;|c|:|d|!"),
            ("fin<|endoftext|>début", None),
            (" \t\n\r\u00a0", ""),
        ],
    )
    def test_hand_made_examples(self, text, words):
        if words is None:
            assert split_words(text) == ["fin", END_OF_TEXT, "début"]
        else:
            assert split_words(text) == [word for word in words.split("|") if word]

    @property_test
    @given(wordy_text)
    def test_only_blanks_disappear(self, text):
        joined = "".join(split_words(text))
        assert joined == "".join(character for character in text if not character.isspace())


class TestSimpleV1:
    def test_hand_made_vocabulary(self):
        tokenizer = SimpleTokenizerV1.from_text("b a, b. C")
        assert tokenizer.str_to_int == {",": 0, ".": 1, "C": 2, "a": 3, "b": 4}
        assert tokenizer.encode("a, b.") == [3, 0, 4, 1]
        assert tokenizer.decode([3, 0, 4, 1]) == "a, b."
        assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eos_id) == ("simple-v1", 5, None)

    def test_dictionary_and_list_are_the_same_vocabulary(self):
        from_dict = SimpleTokenizerV1({"b": 0, "a": 1})
        from_list = SimpleTokenizerV1(["b", "a"])
        assert from_dict.str_to_int == from_list.str_to_int == {"b": 0, "a": 1}
        assert from_dict.to_dict() == {"name": "simple-v1", "vocab": ["b", "a"]}
        assert SimpleTokenizerV1({"a": 1, "b": 0}).to_dict() == from_dict.to_dict()

    @pytest.mark.parametrize("vocab", [{"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": 1}, ["a", "a"]])
    def test_badly_numbered_vocabulary(self, vocab):
        with pytest.raises(TokenizerError, match="mal numéroté"):
            SimpleTokenizerV1(vocab)

    def test_unknown_word_is_named(self):
        tokenizer = SimpleTokenizerV1.from_text("le bac et la lampe")
        with pytest.raises(TokenizerError, match="'rivière'") as caught:
            tokenizer.encode("la rivière et le héron")
        assert "simple-v2" in caught.value.remedy

    @pytest.mark.parametrize("ids", [[5], [-1], [0, 1, 99]])
    def test_id_out_of_range(self, ids):
        with pytest.raises(TokenizerError, match=str(ids[-1])):
            SimpleTokenizerV1.from_text("a b c d e").decode(ids)

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["a", ",", "b", "!"], "a, b!"),
            (["dit", "-", "il", "…"], "dit - il…"),
            (["l", "'", "eau"], "l' eau"),
            (["«", "oui", "»"], "« oui »"),
            (["a", "--", "b", ";", "?", ":"], "a -- b;?:"),
            ([",", "a"], ", a"),
        ],
    )
    def test_decoding_glues_punctuation(self, words, text):
        tokenizer = SimpleTokenizerV1(sorted(set(words)))
        assert tokenizer.decode([tokenizer.str_to_int[word] for word in words]) == text

    def test_empty(self):
        tokenizer = SimpleTokenizerV1.from_text("a")
        assert tokenizer.encode("") == tokenizer.encode(" \n") == []
        assert tokenizer.decode([]) == ""

    def test_decodes_tensors_elements(self):
        """`decode` accepte tout entier, y compris ceux de `Tensor.tolist()`."""
        import torch

        tokenizer = SimpleTokenizerV1.from_text("a b")
        assert tokenizer.decode(torch.tensor([1, 0])) == "b a"


class TestSimpleV2:
    def test_specials_come_last(self):
        tokenizer = SimpleTokenizerV2.from_text("b a")
        assert tokenizer.to_dict()["vocab"] == ["a", "b", END_OF_TEXT, UNKNOWN]
        assert (tokenizer.name, tokenizer.vocab_size, tokenizer.eos_id) == ("simple-v2", 4, 2)

    def test_specials_written_in_the_text_count_once(self):
        tokenizer = SimpleTokenizerV2.from_text(f"a {END_OF_TEXT} b {UNKNOWN}")
        assert tokenizer.to_dict()["vocab"] == ["a", "b", END_OF_TEXT, UNKNOWN]

    def test_unknown_words(self):
        tokenizer = SimpleTokenizerV2.from_text("a b")
        assert tokenizer.encode("a zèbre b, c") == [0, 3, 1, 3, 3]
        assert tokenizer.decode([0, 3, 1]) == f"a {UNKNOWN} b"

    def test_end_of_text_only_where_allowed(self):
        tokenizer = SimpleTokenizerV2.from_text("a b")
        text = f"a {END_OF_TEXT} b"
        assert tokenizer.encode(text, allowed_special={END_OF_TEXT}) == [0, 2, 1]
        assert tokenizer.encode(text, allowed_special="all") == [0, 2, 1]
        assert tokenizer.encode(text) == [0, 3, 1]
        assert tokenizer.encode(text, allowed_special={"<|autre|>"}) == [0, 3, 1]
        assert tokenizer.decode([0, 2, 1]) == text

    def test_end_of_text_glued_to_words_is_recognised(self):
        """Les corpus de plusieurs documents le collent aux mots voisins."""
        tokenizer = SimpleTokenizerV2.from_text("fin début")
        ids = tokenizer.encode(f"fin.{END_OF_TEXT}début", allowed_special={END_OF_TEXT})
        assert ids[-2:] == [tokenizer.eos_id, tokenizer.str_to_int["début"]]

    def test_without_unknown_token(self):
        with pytest.raises(TokenizerError, match="unk"):
            SimpleTokenizerV2(["a", "b", END_OF_TEXT])

    def test_without_end_of_text_token(self):
        tokenizer = SimpleTokenizerV2(["a", UNKNOWN])
        assert tokenizer.eos_id is None
        assert tokenizer.encode(f"a {END_OF_TEXT}") == [0, 1]

    @property_test
    @given(wordy_text)
    def test_encoding_is_stable_after_decoding(self, text):
        tokenizer = SimpleTokenizerV2.from_text(text)
        ids = tokenizer.encode(text)
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
        if END_OF_TEXT not in text and UNKNOWN not in text:
            assert tokenizer.str_to_int[UNKNOWN] not in ids  # son propre texte est connu

    @property_test
    @given(wordy_text)
    def test_any_text_can_be_encoded(self, text):
        tokenizer = SimpleTokenizerV2.from_text(FRENCH_TEXT)
        ids = tokenizer.encode(text, allowed_special="all")
        assert len(ids) == len(split_words(text))
        assert all(0 <= token < tokenizer.vocab_size for token in ids)


class TestEntryPoint:
    def test_default_is_gpt2(self):
        assert isinstance(get_tokenizer(), GPT2Tokenizer)

    @pytest.mark.parametrize(
        ("name", "kind"), [("simple-v1", SimpleTokenizerV1), ("simple-v2", SimpleTokenizerV2)]
    )
    def test_simple_by_name(self, name, kind):
        tokenizer = get_tokenizer(name, text="le bac")
        assert type(tokenizer) is kind
        assert tokenizer.to_dict() == kind.from_text("le bac").to_dict()

    @pytest.mark.parametrize("name", ["simple-v1", "simple-v2"])
    def test_simple_without_text(self, name):
        with pytest.raises(TokenizerError, match=name):
            get_tokenizer(name)

    @pytest.mark.parametrize("kind", [SimpleTokenizerV1, SimpleTokenizerV2])
    def test_saved_file_round_trip(self, kind, tmp_path):
        original = kind.from_text(FRENCH_TEXT)
        path = tmp_path / "tokenizer.json"
        original.save(path)
        for source in (path, str(path)):
            reread = get_tokenizer(source)
            assert type(reread) is kind
            assert reread.to_dict() == original.to_dict()
            assert reread.encode(FRENCH_TEXT) == original.encode(FRENCH_TEXT)

    def test_saved_file_is_readable_utf8(self, tmp_path):
        path = tmp_path / "t.json"
        SimpleTokenizerV1.from_text("où ça").save(path)
        assert "où" in path.read_text(encoding="utf-8")

    @pytest.mark.parametrize("kind", [SimpleTokenizerV1, SimpleTokenizerV2])
    def test_description_survives_json(self, kind):
        original = kind.from_text(FRENCH_TEXT)
        reread = tokenizer_from_dict(json.loads(json.dumps(original.to_dict())))
        assert type(reread) is kind
        assert reread.str_to_int == original.str_to_int

    def test_gpt2_description(self):
        description = get_tokenizer("gpt2").to_dict()
        assert description == {"name": "gpt2"}
        assert isinstance(tokenizer_from_dict(description), GPT2Tokenizer)

    @pytest.mark.parametrize(
        "description",
        [
            {},
            {"name": "bert"},
            {"name": "simple-v1"},
            {"name": "simple-v2", "vocab": "abc"},
            {"name": "simple-v1", "vocab": ["a", 1]},
            {"vocab": ["a"]},
            ["gpt2"],
            "gpt2",
            None,
        ],
    )
    def test_malformed_description(self, description):
        with pytest.raises(TokenizerError, match="description de tokenizer invalide"):
            tokenizer_from_dict(description)

    @pytest.mark.parametrize(
        "description",
        [
            {"name": "simple-v1", "vocab": ["a", "a"]},
            {"name": "simple-v2", "vocab": ["a", END_OF_TEXT]},
        ],
    )
    def test_description_with_a_bad_vocabulary(self, description):
        with pytest.raises(TokenizerError):
            tokenizer_from_dict(description)

    def test_unknown_name_lists_the_known_ones(self):
        with pytest.raises(TokenizerError, match="bert-base") as caught:
            get_tokenizer("bert-base")
        for name in ("gpt2", "simple-v1", "simple-v2"):
            assert name in caught.value.expected

    def test_directory_is_not_a_tokenizer(self, tmp_path):
        with pytest.raises(TokenizerError, match="tokenizer inconnu"):
            get_tokenizer(tmp_path)

    @pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"name: gpt2"])
    def test_broken_file_is_named(self, tmp_path, content):
        path = tmp_path / "cassé.json"
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=r"cassé\.json"):
            get_tokenizer(path)

    def test_valid_json_that_is_no_tokenizer(self, tmp_path):
        path = tmp_path / "liste.json"
        path.write_text("[1, 2]", encoding="utf-8")
        with pytest.raises(TokenizerError, match="description de tokenizer invalide"):
            get_tokenizer(path)


@pytest.mark.usefixtures("without_tiktoken")
class TestWithoutTiktoken:
    def test_falls_back_to_the_simple_tokenizer_and_says_so(self, caplog):
        tokenizer = get_tokenizer("gpt2", text="le bac passe")
        assert type(tokenizer) is SimpleTokenizerV2
        assert tokenizer.encode("le bac") == [1, 0]
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "tiktoken" in record.getMessage()
        assert "pip install tiktoken" in record.getMessage()

    def test_without_text_names_the_package(self):
        with pytest.raises(MissingDependencyError, match="pip install tiktoken") as caught:
            get_tokenizer("gpt2")
        assert caught.value.package == "tiktoken"
        assert isinstance(caught.value, ImportError)

    def test_a_saved_gpt2_model_cannot_fall_back(self):
        """Un modèle entraîné avec GPT-2 n'a pas de texte de repli : c'est une erreur."""
        with pytest.raises(MissingDependencyError):
            tokenizer_from_dict({"name": "gpt2"})


class TestVerdict:
    @pytest.fixture
    def verdict(self, verdict_path):
        return load_corpus([verdict_path]).text

    def test_published_vocabulary_sizes(self, verdict):
        assert SimpleTokenizerV1.from_text(verdict).vocab_size == 1130
        assert SimpleTokenizerV2.from_text(verdict).vocab_size == 1132

    def test_published_token_count(self, verdict, gpt2):
        assert len(gpt2.encode(verdict)) == 5145

    def test_simple_tokenizers_agree_on_their_own_text(self, verdict):
        v1, v2 = SimpleTokenizerV1.from_text(verdict), SimpleTokenizerV2.from_text(verdict)
        assert v1.encode(verdict) == v2.encode(verdict)
        assert v2.encode(v2.decode(v2.encode(verdict))) == v2.encode(verdict)
