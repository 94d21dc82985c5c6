"""`gpt-architecture tokenizer` : apprendre, comparer, montrer, puis s'en servir partout."""

import json

import pytest
from cli_helpers import tiny
from conftest import FRENCH_TEXT
from page_helpers import read_page
from tokenizers import Tokenizer as Engine

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.formats.model_file import read_model


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(FRENCH_TEXT, encoding="utf-8")
    return path


@pytest.fixture
def own(cli, source, tmp_path):
    """Le chemin d'un vocabulaire appris par la commande."""
    path = tmp_path / "mon vocabulaire.json"
    options = ("--pattern", "moderne", "--special", "<|user|>", "<|assistant|>")
    outcome = cli("tokenizer", "train", source, "--vocab-size", "300", "--out", path, *options)
    assert outcome.code == 0, outcome.err
    assert tokenizer_sha256(get_tokenizer(path).to_dict()) in outcome.out
    assert "300 tokens" in outcome.out
    return path


class TestTrain:
    @pytest.mark.slow
    def test_writes_a_tokenizer_json(self, own):
        tokenizer, engine = get_tokenizer(own), Engine.from_file(str(own))
        assert tokenizer.pattern == "moderne"
        assert list(tokenizer.special) == [END_OF_TEXT, "<|user|>", "<|assistant|>"]
        assert engine.encode(FRENCH_TEXT).ids == tokenizer.encode(FRENCH_TEXT)
        assert engine.encode("<|user|>eau").ids[0] == tokenizer.special["<|user|>"]

    @pytest.mark.slow
    def test_several_sources_make_one_vocabulary(self, cli, source, tmp_path):
        """En fichiers ou d'un seul tenant : le même vocabulaire."""
        folder = tmp_path / "textes"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.txt").write_text(FRENCH_TEXT, encoding="utf-8")
        cli("tokenizer", "train", folder, source, "--vocab-size", "280", "--out", "a.json")
        cli("tokenizer", "train", source, "--vocab-size", "280", "--out", "b.json")
        assert get_tokenizer("a.json").to_dict() == get_tokenizer("b.json").to_dict()

    @pytest.mark.slow
    def test_characters(self, cli, source):
        outcome = cli("tokenizer", "train", source, "--kind", "char", "--out", "c.json")
        assert outcome.code == 0, outcome.err
        tokenizer = get_tokenizer("c.json")
        assert tokenizer.decode(tokenizer.encode(FRENCH_TEXT)) == FRENCH_TEXT
        assert tokenizer.eos_id == tokenizer.vocab_size - 1

    def test_says_what_is_left_out(self, cli, source, tmp_path):
        (tmp_path / "mauvais.txt").write_bytes(b"\xff\xff")
        command = ("tokenizer", "train", source, tmp_path / "mauvais.txt", "--vocab-size", "300")
        cli(*command).check_one_line_error(1, "mauvais.txt", "UTF-8 invalide", "--skip-bad")
        outcome = cli(*command, "--skip-bad")
        assert outcome.code == 0
        assert "UTF-8 invalide : 1" in outcome.out
        assert "mauvais.txt" in outcome.out

    def test_small_text_says_it(self, cli, tmp_path):
        (tmp_path / "court.txt").write_text("le bac", encoding="utf-8")
        outcome = cli("tokenizer", "train", tmp_path / "court.txt")
        assert outcome.code == 0
        assert "257 tokens" in outcome.out
        assert "texte trop court" in outcome.out

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            ((), 2, "aucune source"),
            (("absent.txt",), 1, "introuvable : absent.txt"),
            (("SOURCE", "--vocab-size", "100"), 1, "100 tokens"),
            (("SOURCE", "--vocab-size", "70000"), 1, "65536"),
            (("SOURCE", "--special", "user"), 1, "token spécial 'user'"),
            (("SOURCE", "--pattern", "gpt9"), 2, "gpt9"),
            (("SOURCE", "--out", "/dev/null/part.json"), 1, "pas un dossier"),
            (("SOURCE", "--out", "."), 1, "est un dossier"),
        ],
    )
    def test_bad_input_is_one_sentence(self, cli, source, tmp_path, arguments, code, words):
        arguments = [source if each == "SOURCE" else each for each in arguments]
        cli("tokenizer", "train", *arguments).check_one_line_error(code, words)
        assert list((tmp_path / "travail").iterdir()) == []

    @pytest.mark.slow
    def test_does_not_overwrite(self, cli, source, own):
        before = own.read_bytes()
        again = ("tokenizer", "train", source, "--vocab-size", "270", "--out", own)
        cli(*again).check_one_line_error(1, "existe déjà", "--force")
        assert own.read_bytes() == before
        assert cli(*again, "--force").code == 0
        assert get_tokenizer(own).vocab_size == 270


class TestCompare:
    @pytest.mark.slow
    def test_table(self, cli, source, own):
        outcome = cli("tokenizer", "compare", source, "--tokenizers", "gpt2", own)
        assert outcome.code == 0, outcome.err
        for words in ("gpt2", own.name, "50\u00a0257", "Tokens/mot", "× 1,00"):
            assert words in outcome.out

    @pytest.mark.slow
    def test_json(self, cli, source, own):
        outcome = cli("tokenizer", "compare", source, "--tokenizers", "gpt2", own, "--json")
        gpt2, mine = json.loads(outcome.out)
        assert gpt2["words"] == mine["words"] == len(FRENCH_TEXT.split())
        assert mine["tokens"] == len(get_tokenizer(own).encode(FRENCH_TEXT))
        assert mine["tokens_per_word"] == pytest.approx(mine["tokens"] / mine["words"])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            ((), 2, "aucun texte"),
            (("absent.txt",), 1, "texte introuvable : absent.txt"),
            ((" ",), 1, "vide"),
            (("du texte", "--tokenizers", "absent.json"), 1, "tokenizer inconnu : absent.json"),
            (("du texte", "--tokenizers", "bpe-300"), 2, "tokenizer train"),
            (("du texte", "--tokenizers", "absent.pt"), 1, "absent.pt"),
        ],
    )
    def test_bad_input_is_one_sentence(self, cli, arguments, code, words):
        cli("tokenizer", "compare", *arguments).check_one_line_error(code, words)


class TestView:
    def test_in_the_terminal(self, cli):
        outcome = cli("tokenizer", "view", "Hello, I am\n😀é")
        assert outcome.code == 0
        assert "gpt2 : " in outcome.out
        assert "Hello|,|␣I|␣am|⏎\n|😀|é" in outcome.out
        assert "\x1b" not in outcome.out

    def test_colours(self, cli, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        outcome = cli("tokenizer", "view", "Hello, I am")
        assert "\x1b[" in outcome.out
        assert "|" not in outcome.out

    @pytest.mark.slow
    def test_json(self, cli, own):
        outcome = cli("tokenizer", "view", "Hello, I am", "--tokenizer", "gpt2", own, "--json")
        splits = json.loads(outcome.out)
        assert [each["ids"] for each in splits["gpt2"]] == [[15496], [11], [314], [716]]
        assert "".join(each["text"] for each in splits[own.name]) == "Hello, I am"

    @pytest.mark.slow
    def test_page(self, cli, own, tmp_path):
        page = tmp_path / "page.html"
        arguments = ("tokenizer", "view", "L'eau", "--tokenizer", "gpt2", own, "--html", page)
        assert cli(*arguments).code == 0
        assert own.name in read_page(page.read_text(encoding="utf-8")).text
        assert cli(*arguments).code == 0  # la sienne
        page.write_text("précieux", encoding="utf-8")
        cli(*arguments).check_one_line_error(1, "existe déjà", "--force")

    def test_long_text_is_cut_and_says_so(self, cli):
        outcome = cli("tokenizer", "view", "mot " * 6000)
        assert "20 000 premiers" in outcome.err


class TestUse:
    """Le fichier sert à toute la chaîne."""

    @pytest.mark.slow
    def test_prepare_train_infer(self, cli, own, tmp_path):
        source = tmp_path / "documents.jsonl"
        lines = [json.dumps({"text": f"{n} {FRENCH_TEXT}"}) for n in range(6)]
        source.write_text("\n".join(lines), encoding="utf-8")
        shards, out = tmp_path / "fragments", tmp_path / "modèle"
        prepare = ("prepare", source, "--out", shards, "--val-fraction", "0.3", "--tokenizer")
        assert cli(*prepare, own).code == 0
        index = json.loads((shards / "index.json").read_text(encoding="utf-8"))
        assert index["tokenizer_sha256"] == tokenizer_sha256(get_tokenizer(own).to_dict())
        options = {"data": shards, "output_dir": out, "max_steps": 2}
        other = tmp_path / "autre.json"
        assert (
            cli(
                *(
                    "tokenizer",
                    "train",
                    tmp_path / "texte.txt",
                    "--vocab-size",
                    "290",
                    "--out",
                    other,
                )
            ).code
            == 0
        )
        cli("train", *tiny(**options, tokenizer=other)).check_one_line_error(2, "autre.json")
        trained = cli("train", *tiny(**options, tokenizer=own))
        assert trained.code == 0, trained.err
        model = out / "gpt-model.pt"
        assert read_model(model).tokenizer == get_tokenizer(own).to_dict()
        assert cli("infer", "--model", model, "--prompt", "L'eau", "--max-tokens", "3").code == 0
        shown = cli("tokenizer", "compare", "L'eau monte", "--tokenizers", own, model, "--json")
        mine, models = json.loads(shown.out)
        assert mine["tokens"] == models["tokens"]

    @pytest.mark.slow
    def test_train_on_text_and_resume(self, cli, own, tmp_path):
        """À la reprise, un vocabulaire qui a changé de contenu est refusé."""
        out = tmp_path / "modèle"
        assert cli("train", *tiny(tokenizer=own, output_dir=out, max_steps=2)).code == 0
        assert cli("train", "--resume", out, "--max-steps", "3").code == 0
        text = tmp_path / "texte.txt"
        change = ("tokenizer", "train", text, "--vocab-size", "300", "--out", own, "--force")
        assert cli(*change).code == 0
        cli("train", "--resume", out, "--max-steps", "4").check_one_line_error(1, "tokenizer")
