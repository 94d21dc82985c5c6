"""Un token par caractère, comme nanoGPT : vocabulaire du texte, caractère inconnu nommé."""

import pytest
from cli_helpers import tiny
from conftest import SHARED_DATA
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizer import ByteTokenizer, get_tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import TokenizerError
from gpt_architecture.formats.model_file import read_model

SHAKESPEARE = SHARED_DATA / "shakespeare.en.txt"


def test_hand_made():
    tokenizer = CharTokenizer.from_text("bébé a")
    assert tokenizer.to_dict() == {"name": "char", "vocab": [" ", "a", "b", "é"]}
    assert tokenizer.encode("abé") == [1, 2, 3]
    assert tokenizer.decode([3, 0, 1]) == "é a"
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (4, None)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_comes_back(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert ids == [sorted(set(text)).index(character) for character in text]  # stoi de nanoGPT
    assert tokenizer.decode(ids) == text
    assert isinstance(tokenizer, ByteTokenizer)
    octets = tokenizer.token_bytes()
    assert b"".join(octets[token] for token in ids) == text.encode()


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="shakespeare.en.txt n'est pas là")
def test_real_text_comes_back():
    text = SHAKESPEARE.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_character_is_named():
    with pytest.raises(TokenizerError, match=r"'é' \(U\+00E9\)"):
        CharTokenizer.from_text("abc").encode("abé")


def test_end_of_text_separates_documents():
    text = f"ab{END_OF_TEXT}c"
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.to_dict()["vocab"] == ["a", "b", "c", END_OF_TEXT]
    assert tokenizer.encode(text, allowed_special={END_OF_TEXT}) == [0, 1, 3, 2]
    with pytest.raises(TokenizerError, match="'<'"):
        tokenizer.encode(text)
    assert CharTokenizer.train(["a", "b"]).eos_id == 2
    assert CharTokenizer.train(["a", "b"], end_of_text=False).eos_id is None


@pytest.mark.parametrize(
    "vocab", [[], [END_OF_TEXT], ["a", "a"], ["a", "bc"], ["a", ""], ["\ud800"]]
)
def test_bad_vocabulary(vocab):
    with pytest.raises(TokenizerError, match="char invalide"):
        tokenizer_from_dict({"name": "char", "vocab": vocab})


@pytest.mark.parametrize("token", [-1, 3])
def test_id_out_of_range(token):
    with pytest.raises(TokenizerError, match=str(token)):
        CharTokenizer.from_text("abc").decode([token])


def test_by_name_and_by_file(tmp_path):
    learned = get_tokenizer("char", text="où ça")
    learned.save(tmp_path / "char.json")
    assert get_tokenizer(tmp_path / "char.json").to_dict() == learned.to_dict()
    with pytest.raises(TokenizerError, match="char n'a pas de texte"):
        get_tokenizer("char")


@pytest.mark.slow
def test_train_then_infer(cli, tmp_path):
    """De `train --tokenizer char` au texte ; un caractère jamais vu est dit."""
    out = tmp_path / "modèle"
    outcome = cli("train", *tiny(tokenizer="char", output_dir=out, max_steps=2))
    assert outcome.code == 0, outcome.err
    content = read_model(out / "gpt-model.pt")
    assert content.tokenizer["name"] == "char"
    assert content.config.vocab_size == len(content.tokenizer["vocab"]) < 100
    model = ("infer", "--model", out / "gpt-model.pt", "--max-tokens", "5", "--prompt")
    assert cli(*model, "La lampe").out.startswith("La lampe")
    cli(*model, "☃").check_one_line_error(1, "'☃' (U+2603)")
    resumed = cli("train", "--resume", out, "--max-steps", "3")
    assert resumed.code == 0, resumed.err
    assert read_model(out / "gpt-model.pt").tokenizer == content.tokenizer
