"""Le tokenizer.json de Hugging Face : écrit, relu, et lu pareillement par `tokenizers`."""

import hashlib
import json
from pathlib import Path

import pytest
import tiktoken_ext.openai_public
from conftest import FRENCH_TEXT, SHARED_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizer import (
    GPT2Tokenizer,
    SimpleTokenizerV2,
    get_tokenizer,
    tokenizer_from_json,
    tokenizer_json,
)
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.gpt2 import GPT2_MERGES_SHA256, PATTERN_NAMES
from gpt_architecture.errors import TokenizerError

CHAT = ("<|user|>", "<|assistant|>", "<|user2|>")
SEGOND = SHARED_DATA / "segond-1910.fr.txt"
any_text = st.lists(
    st.one_of(
        st.sampled_from([*" \t\r\n'’é😀<|>.!?/_09٣", *CHAT, END_OF_TEXT, "'S", "l'", "\u00a0"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
).map("".join)


@pytest.fixture(scope="module", params=["GPT-2", *PATTERN_NAMES])
def pair(request):
    """Un tokenizer et le moteur que `tokenizers` tire de son document."""
    if request.param == "GPT-2":
        tokenizer = GPT2Tokenizer()
    else:
        tokenizer = BPETokenizer.from_text(FRENCH_TEXT, 400, pattern=request.param, special=CHAT)
    return tokenizer, Engine.from_str(json.dumps(tokenizer_json(tokenizer)))


@pytest.fixture
def document():
    """Un document neuf, à abîmer."""
    return tokenizer_json(BPETokenizer.from_text(FRENCH_TEXT, 300, special=CHAT[:1]))


class TestOracle:
    """`tokenizers`, qui lit notre document, donne les mêmes identifiants."""

    @pytest.mark.slow
    @settings(deadline=None, max_examples=150)
    @given(text=any_text)
    def test_any_text(self, pair, text):
        tokenizer, engine = pair
        assert tokenizer.encode(text, allowed_special="all") == engine.encode(text).ids
        engine.encode_special_tokens = True
        try:
            assert tokenizer.encode(text) == engine.encode(text).ids
        finally:
            engine.encode_special_tokens = False
        ids = tokenizer.encode(text, allowed_special="all")
        assert engine.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids) == text

    @pytest.mark.slow
    def test_vocabulary(self, pair):
        tokenizer, engine = pair
        assert engine.get_vocab_size() == tokenizer.vocab_size
        assert engine.token_to_id(END_OF_TEXT) == tokenizer.eos_id

    @pytest.mark.slow
    @pytest.mark.skipif(not SEGOND.is_file(), reason="segond-1910.fr.txt n'est pas là")
    def test_real_text(self, pair):
        """Un livre entier de la Bible : les mêmes identifiants."""
        tokenizer, engine = pair
        text = SEGOND.read_text(encoding="utf-8")[:200_000]
        assert tokenizer.encode(text) == engine.encode_batch_fast([text])[0].ids


@pytest.mark.slow
@pytest.mark.skipif(not SEGOND.is_file(), reason="segond-1910.fr.txt n'est pas là")
@pytest.mark.parametrize("pattern", PATTERN_NAMES)
def test_whole_bible_comes_back(pattern):
    """Quatre mégaoctets, à l'octet près, par un vocabulaire appris sur leur début."""
    text = SEGOND.read_text(encoding="utf-8")
    tokenizer = BPETokenizer.from_text(text[:300_000], 4096, pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text


class TestGPT2:
    def test_merges_are_the_published_ones(self):
        """Oracle : les empreintes des deux fichiers publiés par OpenAI, que tiktoken cite."""
        model = tokenizer_json(GPT2Tokenizer())["model"]
        merges = "\n".join(["#version: 0.2", *model["merges"], ""])
        assert hashlib.sha256(merges.encode()).hexdigest() == GPT2_MERGES_SHA256
        assert hashlib.sha256(json.dumps(model["vocab"]).encode()).hexdigest() in (
            Path(tiktoken_ext.openai_public.__file__).read_text(encoding="utf-8")
        )

    def test_recognised_by_its_content(self):
        document = tokenizer_json(GPT2Tokenizer())
        assert type(tokenizer_from_json(document)) is GPT2Tokenizer
        document["model"]["merges"] = [m.split(" ") for m in document["model"]["merges"]]
        del document["model"]["type"]  # les plus anciens fichiers ne l'ont pas
        assert type(tokenizer_from_json(document)) is GPT2Tokenizer

    def test_with_one_more_token_it_is_a_bpe(self):
        document = tokenizer_json(GPT2Tokenizer())
        more = {**document["added_tokens"][0], "id": 50257, "content": "<pad>"}
        document["added_tokens"].append(more)
        tokenizer = tokenizer_from_json(document)
        assert type(tokenizer) is BPETokenizer
        assert (tokenizer.vocab_size, tokenizer.eos_id) == (50258, 50256)
        assert tokenizer.encode(FRENCH_TEXT) == GPT2Tokenizer().encode(FRENCH_TEXT)
        assert tokenizer.encode("a<pad>", allowed_special={"<pad>"}) == [64, 50257]


class TestReading:
    @pytest.mark.slow
    def test_comes_back_the_same(self, pair, tmp_path):
        tokenizer, engine = pair
        assert tokenizer_from_json(tokenizer_json(tokenizer)).to_dict() == tokenizer.to_dict()
        engine.save(str(tmp_path / "tokenizer.json"))  # réécrit par la bibliothèque
        assert get_tokenizer(tmp_path / "tokenizer.json").to_dict() == tokenizer.to_dict()

    def test_the_document_is_left_alone(self, document):
        document["model"]["vocab"].pop("<|user|>")
        before = json.dumps(document)
        tokenizer_from_json(document)
        assert json.dumps(document) == before

    def test_another_name_for_the_end(self, document):
        document["added_tokens"][0]["content"] = "</s>"
        vocab = document["model"]["vocab"]
        vocab["</s>"] = vocab.pop(END_OF_TEXT)
        tokenizer = tokenizer_from_json(document)
        assert tokenizer.eos_id == vocab["</s>"]
        assert BPETokenizer.from_dict(tokenizer.to_dict()).eos_id == tokenizer.eos_id

    def test_without_special_tokens(self, document):
        document["added_tokens"] = []
        del document["model"]["vocab"][END_OF_TEXT], document["model"]["vocab"]["<|user|>"]
        tokenizer = tokenizer_from_json(document)
        assert (tokenizer.eos_id, tokenizer.special) == (None, {})

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda d: d.update(normalizer={"type": "NFC"}), "normalisation NFC"),
            (lambda d: d.update(pre_tokenizer=None), "découpage illisible"),
            (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "découpage Whitespace"),
            (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "une espace ajoutée"),
            (lambda d: d.update(post_processor={"type": "BertProcessing"}), "BertProcessing"),
            (lambda d: d.update(decoder={"type": "WordPiece"}), "décodage WordPiece"),
            (lambda d: d.update(model=None), "modèle illisible"),
            (lambda d: d["model"].update(type="Unigram"), "modèle Unigram"),
            (lambda d: d["model"].update(type="WordPiece"), "modèle WordPiece"),
            (lambda d: d["model"].update(dropout=0.1), "dropout = 0.1"),
            (lambda d: d["model"].update(byte_fallback=True), "byte_fallback"),
            (lambda d: d["model"].update(ignore_merges=True), "ignore_merges"),
            (lambda d: d["model"].pop("merges"), "vocab ou merges manque"),
            (lambda d: d["model"].update(merges=[["a", 1]]), "fusion illisible"),
            (lambda d: d["model"]["vocab"].update(zz=9000), "ne se suivent pas"),
            (lambda d: d["model"]["vocab"].update(zz="1"), "pas un entier"),
            (lambda d: d["model"]["vocab"].update(zz=300), "qu'aucune fusion ne forme"),
            (lambda d: d.pop("added_tokens"), "added_tokens manque"),
            (lambda d: d["added_tokens"].append(3), "token ajouté illisible"),
            (lambda d: d["added_tokens"][0].update(special=False), "simple token spécial"),
            (lambda d: d["added_tokens"][0].update(lstrip=True), "simple token spécial"),
            (lambda d: d["added_tokens"][0].update(id=5), "deux identifiants"),
        ],
    )
    def test_anything_else_is_refused(self, document, damage, words):
        damage(document)
        with pytest.raises(TokenizerError, match=words):
            tokenizer_from_json(document)

    def test_unknown_split_is_refused(self):
        document = tokenizer_json(BPETokenizer.from_text(FRENCH_TEXT, 300, pattern="moderne"))
        document["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+"}
        with pytest.raises(TokenizerError, match="motif de découpage inconnu"):
            tokenizer_from_json(document)

    def test_not_an_object(self):
        with pytest.raises(TokenizerError, match="pas un objet"):
            tokenizer_from_json([])


def test_words_have_no_such_document():
    with pytest.raises(TokenizerError, match="simple-v2 n'a pas d'équivalent"):
        tokenizer_json(SimpleTokenizerV2.from_text("le chat"))
