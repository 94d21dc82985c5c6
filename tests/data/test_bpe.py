"""Le BPE par octets appris sur un texte : sans perte, déterministe, relu sans rien exécuter."""

import json
import os
import sys

import pytest
import tiktoken
from cli_helpers import run_process, tiny
from conftest import FRENCH_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT, TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.tokenizer import (
    ByteTokenizer,
    get_tokenizer,
    tokenizer_from_dict,
)
from gpt_architecture.data.tokenizers.bpe import (
    MAX_VOCAB_SIZE,
    MIN_VOCAB_SIZE,
    BPETokenizer,
    bpe_size,
)
from gpt_architecture.data.tokenizers.gpt2 import GPT2_PATTERN, byte_characters
from gpt_architecture.errors import MissingDependencyError, TokenizerError
from gpt_architecture.formats.model_file import read_model

property_test = settings(deadline=None, max_examples=100)
any_text = st.text(
    st.one_of(st.sampled_from(list(" \t\r\n'’é😀👩\u200d<|>endoftx\u00a0\x00")), st.characters()),
    max_size=80,
).filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
DOCUMENTS = f"Le bac passe.{END_OF_TEXT}L'eau\r\nmonte 😀."


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.from_text(FRENCH_TEXT, 300)


@pytest.fixture(scope="module")
def modern():
    return BPETokenizer.from_text(FRENCH_TEXT, 300, pattern="moderne")


class TestCoding:
    @property_test
    @given(text=any_text)
    def test_any_text_comes_back(self, bpe, text):
        ids = bpe.encode(text)
        assert all(0 <= token < bpe.vocab_size for token in ids)
        assert bpe.eos_id not in ids
        assert bpe.decode(ids) == text
        assert bpe.decode(bpe.encode(text, allowed_special="all")) == text

    @pytest.mark.parametrize(
        "text", ["", " ", "é\r\nà\r\n", "👩‍🚀 😀", "\x00\x7f\xa0\xad", "  deux", FRENCH_TEXT]
    )
    def test_hand_made_texts_come_back(self, bpe, text):
        assert bpe.decode(bpe.encode(text)) == text

    @pytest.mark.slow
    @property_test
    @given(text=any_text)
    def test_splits_as_gpt2(self, text):
        """Oracle : tiktoken, mêmes rangs et motif de GPT-2. Des tokens de deux octets ne se forment
        que d'une façon : les deux algorithmes doivent coïncider.
        """
        merges = [
            "e n",
            "Ġ e",
            "Ġ Ġ",
            "č Ċ",
            "Ċ Ċ",
            "Ã ©",
            "' t",
            "< |",
            "| >",
            "d o",
            "Â ł",
            "> <",
        ]
        vocab = [*byte_characters(), *(merge.replace(" ", "") for merge in merges), END_OF_TEXT]
        octets = {c: bytes([octet]) for octet, c in enumerate(byte_characters())}
        ranks = {
            b"".join(octets[c] for c in token): index for index, token in enumerate(vocab[:-1])
        }
        oracle = tiktoken.Encoding(
            name="oracle", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        assert BPETokenizer(vocab, merges).encode(text) == oracle.encode(text)

    def test_hand_made_merges(self):
        octets = byte_characters()
        vocab = [*octets, "ab", "Ġab", END_OF_TEXT]
        tokenizer = BPETokenizer(vocab, ["a b", "Ġ ab"])
        assert tokenizer.encode("ab abc") == [256, 257, ord("c")]
        assert tokenizer.encode("a b") == [ord("a"), 32, ord("b")]  # aucune fusion sur un blanc
        assert tokenizer.decode([257, 99, 258]) == f" abc{END_OF_TEXT}"

    def test_partial_character_and_unknown_id(self, bpe):
        euro = bpe.encode("€")
        assert bpe.decode(euro[:1]) == "\ufffd"
        for token in (-1, bpe.vocab_size):
            with pytest.raises(TokenizerError, match=str(token)):
                bpe.decode([token])

    def test_lone_surrogate_becomes_the_replacement_character(self, bpe):
        assert bpe.decode(bpe.encode("a\ud800b")) == "a\ufffdb"
        assert BPETokenizer.from_text("a\ud800b" * 3, 260).vocab_size == 260

    @pytest.mark.slow
    def test_text_longer_than_a_piece(self, bpe):
        """Un long texte est codé par morceaux : mêmes tokens que ligne à ligne."""
        line = "Le passeur leva la lampe.\n"
        ids = bpe.encode(line)
        assert bpe.encode(line * 50_000) == ids * 50_000

    @property_test
    @given(text=any_text)
    def test_the_bytes_of_tokens_make_the_text(self, bpe, text):
        octets = bpe.token_bytes()
        assert isinstance(bpe, ByteTokenizer)
        assert b"".join(octets[token] for token in bpe.encode(text)) == text.encode()
        assert (len(octets), octets[bpe.eos_id]) == (bpe.vocab_size, END_OF_TEXT.encode())


class TestModernPattern:
    """Le découpage de GPT-4."""

    @property_test
    @given(text=any_text)
    def test_any_text_comes_back(self, modern, text):
        assert modern.decode(modern.encode(text)) == text

    @pytest.mark.slow
    @property_test
    @given(text=st.text(st.sampled_from(list(" \t\r\nabé1234'’.!S")), max_size=60))
    def test_splits_as_published(self, text):
        """Oracle : tiktoken et l'écriture publiée du motif ; les fusions sont de deux octets."""
        merges = ["a b", ". Ċ", "1 2", "3 4", "Ġ Ġ", "' S", "Ċ Ċ", "' a", "Ã ©", "Ġ ."]
        vocab = [*byte_characters(), *(merge.replace(" ", "") for merge in merges), END_OF_TEXT]
        octets = {c: bytes([octet]) for octet, c in enumerate(byte_characters())}
        ranks = {
            b"".join(octets[c] for c in token): index for index, token in enumerate(vocab[:-1])
        }
        published = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        oracle = tiktoken.Encoding(
            name="oracle", pat_str=published, mergeable_ranks=ranks, special_tokens={}
        )
        assert BPETokenizer(vocab, merges, pattern="moderne").encode(text) == oracle.encode(text)

    def test_digits_go_by_three_and_signs_take_the_newline(self):
        learned = BPETokenizer.from_text(
            "1234567890 " * 50 + "fin !\n" * 50, 400, pattern="moderne"
        )
        octets = learned.token_bytes()
        assert max(len(token) for token in octets if token.isdigit()) == 3
        assert b" !\n" in octets

    def test_the_pattern_is_part_of_the_vocabulary(self, bpe, modern):
        assert modern.to_dict()["pattern"] == "moderne"
        assert "pattern" not in bpe.to_dict()
        same_lists = BPETokenizer.from_dict({**bpe.to_dict(), "pattern": "moderne"})
        assert tokenizer_sha256(same_lists.to_dict()) != tokenizer_sha256(bpe.to_dict())

    @pytest.mark.slow
    def test_long_text_is_cut_where_no_token_is(self, modern):
        """Les morceaux d'un long texte ne séparent pas un signe de sa fin de ligne."""
        line = "Le passeur leva la lampe !\n"
        learned = BPETokenizer.from_text(line * 40, 300, pattern="moderne")
        assert learned.encode(line * 50_000) == learned.encode(line) * 50_000

    def test_unknown_pattern(self):
        with pytest.raises(TokenizerError, match="gpt2 ou moderne"):
            BPETokenizer.from_text(FRENCH_TEXT, 300, pattern="gpt5")


class TestSpecial:
    def test_more_than_one(self):
        names = ("<|user|>", "<|assistant|>")
        chat = BPETokenizer.from_text(f"<|user|>{FRENCH_TEXT}" * 3, 320, special=names)
        assert (chat.vocab_size, chat.eos_id) == (320, 317)
        assert chat.special == {END_OF_TEXT: 317, "<|user|>": 318, "<|assistant|>": 319}
        text = "<|user|>Où ?<|assistant|>Là.<|endoftext|>"
        where, here = chat.encode("Où ?"), chat.encode("Là.")
        assert chat.encode(text, allowed_special="all") == [318, *where, 319, *here, 317]
        assert chat.encode("<|user|>Où ?", allowed_special={"<|user|>"}) == [318, *where]
        plain = chat.encode(text, allowed_special={"<|system|>"})
        assert not {317, 318, 319} & set(plain)
        assert chat.decode(plain) == text
        assert chat.token_bytes()[318] == b"<|user|>"
        assert tokenizer_from_dict(chat.to_dict()).to_dict() == chat.to_dict()

    def test_the_longest_name_wins(self):
        names = ("<a>", "<a><b>")
        vocab = [*byte_characters(), *names]
        assert BPETokenizer(vocab, [], special=names).encode(
            "<a><b><a>", allowed_special="all"
        ) == [257, 256]

    def test_they_teach_nothing(self):
        """Écrit cent fois dans le texte, un token spécial ne donne aucune fusion."""
        learned = BPETokenizer.from_text("<|user|>" * 100, 300, special=["<|user|>"])
        assert learned.to_dict()["merges"] == []

    @pytest.mark.parametrize("name", ["a", "", "<>", "user", "<|a b|>", "<é>", "<a><b>"])
    def test_bad_name(self, name):
        with pytest.raises(TokenizerError, match="token spécial"):
            BPETokenizer.from_text(FRENCH_TEXT, 300, special=[name])

    def test_they_count_in_the_size(self):
        with pytest.raises(TokenizerError, match="de 258 "):
            BPETokenizer.from_text(FRENCH_TEXT, 257, special=["<|user|>"])

    def test_only_where_allowed(self, bpe):
        assert bpe.vocab_size - 1 == bpe.eos_id
        parts = [bpe.encode(part) for part in DOCUMENTS.split(END_OF_TEXT)]
        allowed = [*parts[0], bpe.eos_id, *parts[1]]
        assert bpe.encode(DOCUMENTS, allowed_special={END_OF_TEXT}) == allowed
        assert bpe.encode(DOCUMENTS, allowed_special="all") == allowed
        for special in (frozenset(), {"<|autre|>"}):
            ids = bpe.encode(DOCUMENTS, allowed_special=special)
            assert bpe.eos_id not in ids
            assert bpe.decode(ids) == bpe.decode(allowed) == DOCUMENTS

    def test_only_separators(self, bpe):
        assert bpe.encode(END_OF_TEXT * 2, allowed_special="all") == [bpe.eos_id] * 2

    def test_separators_teach_nothing(self):
        """Répété, le séparateur ne donne aucune fusion."""
        assert BPETokenizer.from_text(END_OF_TEXT * 50, 300).vocab_size == MIN_VOCAB_SIZE


class TestLearning:
    def test_size_and_layout(self, bpe):
        vocab, merges = (bpe.to_dict()[key] for key in ("vocab", "merges"))
        assert (bpe.name, bpe.vocab_size, len(vocab)) == ("bpe", 300, 300)
        assert set(vocab[:256]) == set(byte_characters())
        assert vocab[-1] == END_OF_TEXT
        assert [merge.replace(" ", "") for merge in merges] == vocab[256:-1]

    def test_most_frequent_pair_first(self):
        tokenizer = BPETokenizer.from_text("xy xy xy xy zw zw q", 259)
        assert tokenizer.to_dict()["merges"] == ["x y", "Ġ xy"]

    def test_merges_shorten_the_text(self, bpe):
        assert len(bpe.encode(FRENCH_TEXT)) < 0.75 * len(FRENCH_TEXT.encode())
        assert len(BPETokenizer.from_text(FRENCH_TEXT, 350).encode(FRENCH_TEXT)) < len(
            bpe.encode(FRENCH_TEXT)
        )

    def test_same_text_same_vocabulary_whatever_the_threads(self, bpe, tmp_path):
        """Dans un autre processus, avec un fil ou plusieurs : le même fichier, et rien sur stderr,
        même si le processus se dédouble après.
        """
        code = (
            "import os, sys; from gpt_architecture.data.tokenizer import get_tokenizer\n"
            "text = open(sys.argv[1], encoding='utf-8').read()\n"
            "get_tokenizer('bpe-300', text=text).save(sys.argv[2])\n"
            "child = os.fork() if hasattr(os, 'fork') else None\n"
            "if child == 0: os._exit(0)\n"
            "if child: os.waitpid(child, 0)\n"
        )
        source, target = tmp_path / "texte.txt", tmp_path / "bpe.json"
        source.write_text(FRENCH_TEXT, encoding="utf-8")
        for threads in ("1", "4"):
            outcome = run_process(
                *(sys.executable, "-c", code, source, target), env={"RAYON_NUM_THREADS": threads}
            )
            assert (outcome.code, outcome.err) == (0, "")
            assert get_tokenizer(target).to_dict() == bpe.to_dict()

    def test_the_environment_is_left_alone(self):
        before = dict(os.environ)
        BPETokenizer.from_text(FRENCH_TEXT, 260)
        assert dict(os.environ) == before

    @pytest.mark.parametrize("text", ["", "abc", "a b c d"])
    def test_small_text_gives_a_smaller_vocabulary_and_says_so(self, text, caplog):
        """À quelques tokens près, comme le préréglage éclair, rien n'est à dire."""
        with caplog.at_level("INFO", logger="gpt_architecture"):
            tokenizer = BPETokenizer.from_text(text, 4_000)
            BPETokenizer.from_text(text, 270)
        assert tokenizer.vocab_size == MIN_VOCAB_SIZE
        (said,) = [each.getMessage() for each in caplog.records]
        assert said.endswith("les 4 000 tokens demandés : le vocabulaire en a 257")
        assert tokenizer.decode(tokenizer.encode("étoile")) == "étoile"

    @pytest.mark.slow
    @pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "ab" * 150_000])
    def test_endless_word_is_learned_quickly(self, text):
        """Sans blanc, un texte s'apprend quand même : le mot est coupé."""
        tokenizer = BPETokenizer.from_text(text, 300)
        assert tokenizer.vocab_size < 280
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @pytest.mark.parametrize("size", [0, -1, 256, MAX_VOCAB_SIZE + 1, True, 300.0])
    def test_size_out_of_bounds(self, size):
        with pytest.raises(TokenizerError, match="257") as caught:
            BPETokenizer.from_text(FRENCH_TEXT, size)
        assert "65536" in caught.value.expected

    def test_smallest_size(self):
        assert BPETokenizer.from_text(FRENCH_TEXT, MIN_VOCAB_SIZE).to_dict()["merges"] == []


def _without(key):
    return lambda d: d.pop(key)


class TestDescription:
    def test_survives_json_and_file(self, bpe, tmp_path):
        path = tmp_path / "bpe.json"
        bpe.save(path)
        for reread in (
            tokenizer_from_dict(json.loads(json.dumps(bpe.to_dict()))),
            get_tokenizer(path),
            get_tokenizer(str(path)),
        ):
            assert type(reread) is BPETokenizer
            assert reread.to_dict() == bpe.to_dict()
            assert reread.encode(DOCUMENTS) == bpe.encode(DOCUMENTS)
            assert reread.eos_id == bpe.eos_id

    def test_description_is_a_copy(self, bpe):
        bpe.to_dict()["merges"].clear()
        assert bpe.to_dict()["merges"]

    def test_end_of_text_may_be_anywhere(self, bpe):
        description = bpe.to_dict()
        description["vocab"] = [END_OF_TEXT, *description["vocab"][:-1]]
        moved = tokenizer_from_dict(description)
        assert moved.eos_id == 0
        assert moved.encode(FRENCH_TEXT) == [token + 1 for token in bpe.encode(FRENCH_TEXT)]

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (_without("vocab"), "vocab n'est pas une liste"),
            (_without("merges"), "merges n'est pas une liste"),
            (lambda d: d.update(vocab="abc"), "vocab n'est pas une liste"),
            (lambda d: d.update(merges={"a b": 0}), "merges n'est pas une liste"),
            (lambda d: d["vocab"].append(3), "vocab n'est pas une liste"),
            (lambda d: d["merges"].append(["a", "b"]), "merges n'est pas une liste"),
            (lambda d: d["vocab"].append("a"), "vocab contient des doublons"),
            (lambda d: d["merges"].append(d["merges"][0]), "merges contient des doublons"),
            (lambda d: d.update(vocab=[END_OF_TEXT]), "1 tokens"),
            (lambda d: d["vocab"].extend(map(str, range(10, 70_000))), "70290 tokens"),
            (lambda d: d["vocab"].pop(), "pas de token"),
            (lambda d: d["vocab"].remove("a"), "il manque des octets"),
            (lambda d: d["vocab"].append("zzz"), "qu'aucune fusion ne forme"),
            (lambda d: d["merges"].pop(), "qu'aucune fusion ne forme"),
            (lambda d: d["merges"].append("ab"), "fusion impossible 'ab'"),
            (lambda d: d["merges"].append(" "), "fusion impossible"),
            (lambda d: d["merges"].append("a b c"), "fusion impossible"),
            (lambda d: d["merges"].append("zzz a"), "fusion impossible"),
            (lambda d: d["merges"].append("Z Q"), "fusion impossible"),
            (lambda d: d["merges"].reverse(), "fusion impossible"),
            (lambda d: d.update(pattern="autre"), "motif inconnu 'autre'"),
            (lambda d: d.update(pattern=["gpt2"]), "motif inconnu"),
            (lambda d: d.update(special="<s>"), "special n'est pas une liste"),
            (lambda d: d.update(special=[END_OF_TEXT, "<s>"]), "pas de token <s>"),
            (lambda d: d.update(special=[]), "qu'aucune fusion ne forme"),
            (lambda d: d.update(special=[END_OF_TEXT, "a"]), "il manque des octets"),
            (lambda d: d.update(roles=["eos_token"]), "roles n'est pas un dictionnaire"),
            (lambda d: d.update(roles={"eos_token": ["a"]}), "roles n'est pas un dictionnaire"),
        ],
    )
    def test_malformed_description_is_refused(self, bpe, damage, words):
        description = bpe.to_dict()
        damage(description)
        with pytest.raises(TokenizerError, match=words):
            tokenizer_from_dict({"name": "bpe", **description})


class TestNames:
    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("bpe-4096", 4096),
            ("bpe-0", 0),
            *((name, None) for name in ("gpt2", "bpe", "bpe-", "bpe--5", "bpe-1e3", "bpe-9.json")),
            ("bpe-" + "9" * 50, None),
        ],
    )
    def test_size_of_a_name(self, name, size):
        assert bpe_size(name) == size

    def test_by_name(self, bpe):
        assert get_tokenizer("bpe-300", text=FRENCH_TEXT).to_dict() == bpe.to_dict()
        with pytest.raises(TokenizerError, match="bpe-300 n'a pas de texte"):
            get_tokenizer("bpe-300")
        with pytest.raises(TokenizerError, match="12 tokens"):
            get_tokenizer("bpe-12", text=FRENCH_TEXT)
        with pytest.raises(TokenizerError, match="tokenizer inconnu") as caught:
            get_tokenizer("bpe-grand", text=FRENCH_TEXT)
        assert "bpe-N" in caught.value.expected

    def test_missing_library_names_the_package(self, bpe, monkeypatch):
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        for read in (
            lambda: get_tokenizer("bpe-300", text=FRENCH_TEXT),
            lambda: tokenizer_from_dict(bpe.to_dict()),
        ):
            with pytest.raises(MissingDependencyError, match="pip install tokenizers"):
                read()


class TestTraining:
    def test_vocabulary_does_not_see_the_validation(self, tmp_path):
        path = tmp_path / "texte.txt"
        text = FRENCH_TEXT + "Zyx zyx zyx zyx zyx zyx. " * 12
        path.write_text(text, encoding="utf-8")
        training = TrainingConfig(train_ratio=0.7)
        data = load_training_data([str(path)], "bpe-300", window=8, training=training)
        learned, validation = split_text(text, 0.7)
        assert data.tokenizer.to_dict() == BPETokenizer.from_text(learned, 300).to_dict()
        assert data.tokenizer.decode(data.val.read(0, data.val.num_tokens).tolist()) == validation

    @pytest.mark.slow
    def test_train_infer_and_resume(self, cli, tmp_path):
        """De `train --tokenizer bpe-300` au texte, puis une reprise qui retrouve ce vocabulaire,
        même près d'un dossier qui porte ce nom.
        """
        (tmp_path / "travail" / "bpe-300").mkdir()
        out = tmp_path / "modèle"
        outcome = cli("train", *tiny(tokenizer="bpe-300", output_dir=out, max_steps=4))
        assert outcome.code == 0, outcome.err
        content = read_model(out / "gpt-model.pt")
        assert content.tokenizer["name"] == "bpe"
        assert content.config.vocab_size == 300
        model = ("--model", out / "gpt-model.pt")
        generated = cli("infer", *model, "--prompt", "Où 😀", "--max-tokens", "8")
        assert generated.code == 0, generated.err
        assert generated.out.startswith("Où 😀")
        resumed = cli("train", "--resume", out, "--max-steps", "6")
        assert resumed.code == 0, resumed.err
        assert read_model(out / "gpt-model.pt").tokenizer == content.tokenizer

    def test_bad_size_is_one_sentence(self, cli, tmp_path):
        outcome = cli("train", *tiny(tokenizer="bpe-100", output_dir=tmp_path / "m"))
        outcome.check_one_line_error(1, "100 tokens", "257")

    @pytest.mark.slow
    def test_prepare_takes_a_saved_one(self, cli, bpe, tmp_path):
        source = tmp_path / "texte.jsonl"
        lines = [json.dumps({"text": f"{n} {FRENCH_TEXT}"}) for n in range(4)]
        source.write_text("\n".join(lines), encoding="utf-8")
        out = tmp_path / "fragments"
        command = ("prepare", source, "--out", out, "--val-fraction", "0.3", "--tokenizer")
        cli(*command, "bpe-300").check_one_line_error(
            2, "bpe-300", "gpt-architecture tokenizer train"
        )
        bpe.save(tmp_path / "bpe.json")
        outcome = cli(*command, tmp_path / "bpe.json", "--workers", "2")
        assert outcome.code == 0, outcome.err
        tokens = open_shards(out, "train")
        assert tokens.tokenizer == bpe.to_dict()
        text = bpe.decode(tokens.read(0, tokens.num_tokens).tolist())
        assert text.startswith(END_OF_TEXT)
        assert FRENCH_TEXT in text
