"""D'où vient le texte : fichiers, dossiers, corpus nommés ; le réseau se limite à 127.0.0.1."""

import hashlib
import http.server
import re
import socket
import threading
import unicodedata
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts import recipes
from gpt_architecture.data.texts.corpus import SHORT_STORY, load_corpus
from gpt_architecture.data.texts.readers import layers
from gpt_architecture.data.texts.recipes import VERDICT
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.storage import decode_text, read_text


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestFilesAndFolders:
    def test_one_file(self):
        path = write(Path("conte.txt"), "Il était une fois.")
        found = load_corpus([path])
        assert (found.name, found.text) == ("conte", "Il était une fois.")
        assert found.origins == ("conte.txt",)
        assert found == load_corpus(["conte.txt"])

    def test_file_of_any_suffix_when_named(self):
        write(Path("notes.tex"), "bonjour")
        assert load_corpus(["notes.tex"]).text == "bonjour"

    def test_folder_is_sorted_nested_and_filtered(self):
        write(Path("livre/b.md"), "deux")
        write(Path("livre/a.txt"), "un")
        write(Path("livre/c/d.TXT"), "trois")
        write(Path("livre/image.png"), b"\x89PNG\x00\xff")
        write(Path("livre/e.txt/f.txt"), "quatre")  # un dossier nommé comme un texte
        found = load_corpus(["livre"])
        assert found.name == "livre"
        assert found.text == END_OF_TEXT.join(["un", "deux", "trois", "quatre"])
        assert found.origins == (
            "livre/a.txt",
            "livre/b.md",
            "livre/c/d.TXT",
            "livre/e.txt/f.txt",
        )

    def test_current_folder_has_a_name(self):
        write(Path("a.txt"), "un")
        assert load_corpus(["."]).name == Path.cwd().name

    def test_several_sources_keep_their_order(self):
        write(Path("z.txt"), "premier")
        write(Path("dossier/a.txt"), "second")
        found = load_corpus(["z.txt", "dossier", SHORT_STORY], offline=True)
        assert found.name == f"z+dossier+{SHORT_STORY}"
        documents = found.text.split(END_OF_TEXT)
        assert documents[:2] == ["premier", "second"]
        assert len(documents) == len(found.origins) == 3

    def test_separator_is_one_token_for_gpt2(self):
        write(Path("a.txt"), "un")
        write(Path("b.txt"), "deux")
        ids = get_tokenizer("gpt2").encode(
            load_corpus(["a.txt", "b.txt"]).text, allowed_special={END_OF_TEXT}
        )
        assert ids.count(50256) == 1

    def test_fingerprint_is_that_of_the_text(self):
        write(Path("a.txt"), b"\xef\xbb\xbf\xc3\xa9t\xc3\xa9\r\n")
        assert load_corpus(["a.txt"]).sha256 == hashlib.sha256("été\n".encode()).hexdigest()

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"\xef\xbb\xbfbonjour", "bonjour"),
            (b"a\r\nb\r\n", "a\nb\n"),
            (b"a\rb", "a\nb"),
            (b"a\n\r\n\rb", "a\n\n\nb"),
            (b"\xef\xbb\xbfa\r\n", "a\n"),
            ("é\ufeffè".encode(), "é\ufeffè"),  # un BOM n'est retiré qu'au début
        ],
    )
    def test_bom_and_line_ends(self, content, text):
        assert read_text(write(Path("t.txt"), content)) == text

    def test_a_named_corpus_yields_to_a_local_path(self):
        """Un dossier qui porte le nom d'un corpus est ce que la personne désigne."""
        write(Path(SHORT_STORY) / "mien.txt", "le mien")
        assert load_corpus([SHORT_STORY]).text == "le mien"


class TestFailures:
    def test_no_source(self):
        with pytest.raises(DataError, match="aucune source"):
            load_corpus([])

    def test_missing_path_is_named_with_the_known_names(self):
        with pytest.raises(DataError, match=r"absent\.txt") as caught:
            load_corpus(["absent.txt"])
        assert VERDICT in caught.value.expected
        assert SHORT_STORY in caught.value.expected

    def test_a_source_too_long_for_a_path_is_a_data_error(self):
        """Donner le texte lui-même au lieu d'un chemin : une phrase claire, pas un OSError."""
        with pytest.raises(DataError):
            load_corpus(["Il était une fois un passeur. " * 20])

    @pytest.mark.parametrize("content", [b"", b" ", b"\n\t \r\n", b"\xef\xbb\xbf"])
    def test_empty_or_blank_file(self, content):
        write(Path("vide.txt"), content)
        with pytest.raises(DataError, match=r"vide\.txt est vide"):
            load_corpus(["vide.txt"])

    def test_one_empty_file_in_a_folder_is_left_aside_and_named(self, caplog):
        write(Path("livre/a.txt"), "un")
        write(Path("livre/b.txt"), "")
        assert load_corpus(["livre"]).text == "un"
        assert "1 laissé de côté, vide : livre/b.txt" in caplog.text

    @pytest.mark.parametrize(
        ("content", "byte", "position"),
        [
            (b"caf\xe9 noir", "0xe9", 3),
            (b"\xe9t\xe9\xff", "0xe9", 0),
            (b"tronqu\xc3", "0xc3", 6),
        ],
    )
    def test_invalid_utf8_names_byte_and_position(self, content, byte, position):
        write(Path("latin.txt"), content)
        with pytest.raises(DataError, match=r"latin\.txt") as caught:
            load_corpus(["latin.txt"])
        assert f"octet {byte} invalide à la position {position}" in caught.value.found
        assert "iconv" in caught.value.remedy

    def test_invalid_utf8_after_a_bom_names_the_right_byte(self):
        """Le BOM compte dans la position : c'est celle d'un éditeur hexadécimal."""
        with pytest.raises(DataError) as caught:
            decode_text(b"\xef\xbb\xbfabc\xff", origin="bom.txt")
        assert "octet 0xff invalide à la position 6" in caught.value.found

    @pytest.mark.slow
    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf16_is_recognised(self, encoding):
        write(Path("utf16.txt"), "\ufeffbonjour".encode(encoding))
        with pytest.raises(DataError, match="UTF-16") as caught:
            load_corpus(["utf16.txt"])
        assert "iconv -f UTF-16" in caught.value.remedy

    def test_null_byte(self):
        write(Path("binaire.txt"), b"abc\x00def")
        with pytest.raises(DataError, match="octet nul à la position 3"):
            load_corpus(["binaire.txt"])

    def test_null_byte_position_is_counted_in_bytes(self):
        """« octet nul à la position n » : n se compte en octets, comme pour l'UTF-8 invalide."""
        with pytest.raises(DataError, match="octet nul à la position 5"):
            decode_text("été\0".encode(), origin="binaire.txt")

    def test_folder_without_text(self):
        write(Path("images/a.png"), b"png")
        with pytest.raises(DataError, match="images") as caught:
            load_corpus(["images"])
        assert "extension inconnue" in caught.value.found
        assert ".txt, .md" in caught.value.expected

    def test_unreadable_file(self, monkeypatch):
        path = write(Path("secret.txt"), "texte")

        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(layers, "open_regular", refuse)
        with pytest.raises(DataError, match=r"secret\.txt \(accès refusé\) : fichier illisible"):
            load_corpus([path])


class TestEmbeddedStory:
    @pytest.fixture
    def story(self):
        return load_corpus([SHORT_STORY], offline=True)

    def test_name_and_title(self, story):
        assert story.name == "la-lampe-du-passeur"
        assert story.origins == ("la-lampe-du-passeur",)
        assert story.text.startswith("La Lampe du passeur\n")

    def test_long_enough_for_the_default_training(self, story):
        assert 5000 <= len(get_tokenizer("gpt2").encode(story.text)) <= 5250

    def test_typography_is_uniform(self, story):
        assert unicodedata.is_normalized("NFC", story.text)
        assert "'" in story.text
        assert not set("’‘ʼ\u0060\u00b4") & set(story.text)
        assert "\r" not in story.text
        assert "\ufeff" not in story.text

    def test_is_one_document(self, story):
        assert END_OF_TEXT not in story.text


FAKE = b"I had always thought Jack Gisburn rather a cheap genius.\r\n"


def pin(monkeypatch, name=VERDICT, **changes):
    """Change une recette, le temps d'un test."""
    monkeypatch.setitem(recipes.RECIPES, name, replace(recipes.RECIPES[name], **changes))


@pytest.fixture
def fake_verdict(monkeypatch):
    """Un texte de quelques mots tient lieu de The Verdict."""
    pin(monkeypatch, sha256=hashlib.sha256(FAKE).hexdigest())
    return FAKE


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    folder = tmp_path / "textes"
    monkeypatch.setattr(recipes, "user_cache_path", lambda _name: folder)
    return folder


@pytest.mark.usefixtures("fake_verdict")
class TestVerdictOffline:
    @staticmethod
    def places(cache_dir):
        return [
            Path(f"{VERDICT}.txt"),
            Path("data") / f"{VERDICT}.txt",
            cache_dir / f"{VERDICT}.txt",
        ]

    @pytest.mark.parametrize("first", [0, 1, 2])
    def test_order_of_places(self, first, cache_dir, caplog):
        places = self.places(cache_dir)
        for place in places[first:]:
            write(place, FAKE)
        found = load_corpus([VERDICT], offline=True)
        assert found.name == VERDICT
        assert found.origins == (str(places[first]),)
        assert found.text == FAKE.decode().replace("\r\n", "\n")
        assert not caplog.records

    def test_default_cache_follows_the_platform(self, tmp_path):
        """`XDG_CACHE_HOME` est celui du test (voir conftest)."""
        platformdirs = pytest.importorskip("platformdirs")
        cached = platformdirs.user_cache_path("gpt-architecture") / f"{VERDICT}.txt"
        write(cached, FAKE)
        assert load_corpus([VERDICT], offline=True).origins == (str(cached),)

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_wrong_file_is_skipped_with_a_warning(self, wrong, cache_dir, caplog):
        places = self.places(cache_dir)
        write(places[wrong], "un autre texte")
        if wrong < 2:
            write(places[wrong + 1], FAKE)
        found = load_corpus([VERDICT], offline=True)
        assert found.name == (VERDICT if wrong < 2 else SHORT_STORY)
        assert caplog.records[0].levelname == "WARNING"
        assert str(places[wrong]) in caplog.records[0].getMessage()

    def test_otherwise_the_story_with_a_warning(self, cache_dir, caplog):
        found = load_corpus([VERDICT], offline=True)
        assert found == load_corpus([SHORT_STORY])
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "téléchargement interdit" in record.getMessage()
        assert SHORT_STORY in record.getMessage()
        assert not cache_dir.exists()


def test_verdict_itself(verdict_path, caplog):
    """L'empreinte inscrite dans le projet est bien celle du texte."""
    write(Path("the-verdict.txt"), verdict_path.read_bytes())
    found = load_corpus([VERDICT], offline=True)
    assert found.name == VERDICT
    assert len(found.text) == 20479
    assert found.sha256 == recipes.RECIPES[VERDICT].sha256
    assert not caplog.records


@contextmanager
def server(respond):
    """Un serveur HTTP sur 127.0.0.1 ; rend son adresse et la liste des chemins demandés."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            respond(self)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/the-verdict.txt", requests
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def send(handler, body, status=200):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    try:
        handler.wfile.write(body)
    except OSError:
        handler.close_connection = True  # le client a cessé de lire


@pytest.mark.usefixtures("fake_verdict")
class TestVerdictDownload:
    @pytest.fixture(autouse=True)
    def direct_connection(self, monkeypatch):
        """Sans mandataire ; par défaut un délai large, pour une machine chargée."""
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(recipes, "DOWNLOAD_TIMEOUT_S", 20.0)

    @staticmethod
    def load(monkeypatch, url, **options):
        pin(monkeypatch, url=url)
        return load_corpus([VERDICT], **options)

    @staticmethod
    def assert_fell_back(found, cache_dir, caplog, reason=""):
        assert found == load_corpus([SHORT_STORY])
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "The Verdict n'est pas disponible" in warnings[0]
        assert reason in warnings[0]
        assert not (cache_dir / f"{VERDICT}.txt").exists()

    def test_success_fills_the_cache(self, monkeypatch, cache_dir, caplog):
        with server(lambda handler: send(handler, FAKE)) as (url, requests):
            found = self.load(monkeypatch, url)
        assert (found.name, found.origins) == (VERDICT, (url,))
        assert found.text == FAKE.decode().replace("\r\n", "\n")
        assert requests == ["/the-verdict.txt"]
        cached = cache_dir / f"{VERDICT}.txt"
        assert cached.read_bytes() == FAKE
        assert not list(cache_dir.glob("*.part"))

        again = self.load(monkeypatch, url)  # le serveur est arrêté
        assert again.origins == (str(cached),)
        assert again.text == found.text
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_offline_asks_nobody(self, monkeypatch, cache_dir, caplog):
        with server(lambda handler: send(handler, FAKE)) as (url, requests):
            found = self.load(monkeypatch, url, offline=True)
        assert requests == []
        self.assert_fell_back(found, cache_dir, caplog, "téléchargement interdit")

    def test_local_file_spares_the_download(self, monkeypatch, cache_dir):
        write(Path("the-verdict.txt"), FAKE)
        with server(lambda handler: send(handler, FAKE)) as (url, requests):
            assert self.load(monkeypatch, url).name == VERDICT
        assert requests == []

    def test_cache_that_refuses_to_be_written(self, monkeypatch, tmp_path, caplog):
        """Le texte est rendu quand même : le cache n'est qu'une commodité."""
        blocked = write(tmp_path / "fichier", "pas un dossier") / "cache"
        monkeypatch.setattr(recipes, "user_cache_path", lambda _name: blocked)
        with server(lambda handler: send(handler, FAKE)) as (url, _):
            assert self.load(monkeypatch, url).name == VERDICT
        assert "cache non écrit" in caplog.text

    def test_damaged_cache_is_replaced(self, monkeypatch, cache_dir, caplog):
        cached = write(cache_dir / f"{VERDICT}.txt", "abîmé")
        with server(lambda handler: send(handler, FAKE)) as (url, _):
            assert self.load(monkeypatch, url).origins == (url,)
        assert cached.read_bytes() == FAKE
        assert str(cached) in caplog.text

    def test_unexpected_text(self, monkeypatch, cache_dir, caplog):
        with server(lambda handler: send(handler, b"<html>portail captif</html>")) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, "empreinte inattendue")

    @pytest.mark.parametrize("status", [404, 500])
    def test_error_status(self, monkeypatch, cache_dir, caplog, status):
        with server(lambda handler: send(handler, FAKE, status)) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, f"réponse HTTP {status}")

    def test_nobody_listens(self, monkeypatch, cache_dir, caplog):
        with server(lambda handler: None) as (url, _):
            pass
        found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, "connexion refusée")

    def test_blocked_network(self, monkeypatch, cache_dir, caplog):
        """L'adresse véritable, que le conftest rend injoignable."""
        found = self.load(monkeypatch, recipes.RECIPES[VERDICT].url)
        self.assert_fell_back(found, cache_dir, caplog, "nom de serveur introuvable")

    @pytest.mark.slow
    def test_server_that_never_answers(self, monkeypatch, cache_dir, caplog):
        monkeypatch.setattr(recipes, "DOWNLOAD_TIMEOUT_S", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # accepte, et se tait
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog)

    @pytest.mark.slow
    def test_server_that_answers_drop_by_drop(self, monkeypatch, cache_dir, caplog):
        """Chaque octet arrive à temps, l'ensemble jamais : le délai borne le tout."""
        monkeypatch.setattr(recipes, "DOWNLOAD_TIMEOUT_S", 0.5)
        enough = threading.Event()

        def drip(handler):
            handler.send_response(200)
            handler.end_headers()
            for _ in range(200):  # 10 s au plus : si le délai manquait, la raison changerait
                if enough.wait(0.05):
                    break
                handler.wfile.write(b".")

        with server(drip) as (url, _):
            try:
                found = self.load(monkeypatch, url)
            finally:
                enough.set()
        self.assert_fell_back(found, cache_dir, caplog, "pas de réponse")

    def test_oversized_body_is_not_read_to_the_end(self, monkeypatch, cache_dir, caplog):
        """L'empreinte attendue est celle du corps entier : seul un corps tronqué l'évite."""
        body = b"x" * (3 << 20)
        pin(monkeypatch, sha256=hashlib.sha256(body).hexdigest())
        with server(lambda handler: send(handler, body)) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, "empreinte inattendue")

    def test_truncated_body(self, monkeypatch, cache_dir, caplog):
        def truncate(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(FAKE)))
            handler.end_headers()
            handler.wfile.write(FAKE[:10])

        with server(truncate) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog)

    def test_server_that_does_not_speak_http(self, monkeypatch, cache_dir, caplog):
        """`http.client.HTTPException` n'est pas un `OSError` : elle ne doit pas s'échapper."""

        def babble(handler):
            handler.wfile.write(b"220 smtp.exemple.fr ESMTP\r\n")

        with server(babble) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, "réseau")

    def test_body_cut_in_the_middle_of_a_chunk(self, monkeypatch, cache_dir, caplog):
        """`http.client.IncompleteRead`, elle non plus, n'est pas un `OSError`."""

        def cut(handler):
            handler.protocol_version = "HTTP/1.1"
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"400\r\ncourt")
            handler.close_connection = True

        with server(cut) as (url, _):
            found = self.load(monkeypatch, url)
        self.assert_fell_back(found, cache_dir, caplog, "réseau")


class TestNovels:
    """Les romans épinglés, remplacés ici par quelques mots."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        for name in recipes.RECIPES:
            data = f"Le texte de {name}.".encode()
            pin(monkeypatch, name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            monkeypatch.delenv("http_proxy", raising=False)

    def test_one_or_all(self, cache_dir):
        """Par son nom, un roman ; par celui du recueil, tous, dans l'ordre des années."""
        novels = [name for name in recipes.RECIPES if name != VERDICT]
        for name in novels:
            write(cache_dir / f"{name}.txt", f"Le texte de {name}.")
        assert load_corpus(["nanon"], offline=True).text == "Le texte de nanon."
        found = load_corpus([recipes.NOVELS], offline=True)
        assert found.name == recipes.NOVELS
        assert found.text.split(END_OF_TEXT) == [f"Le texte de {name}." for name in novels]

    @pytest.mark.parametrize("asked", ["nanon", recipes.NOVELS])
    def test_a_missing_one_is_asked_for(self, cache_dir, asked):
        """Ni réseau, ni fichier : lequel manque, d'où l'apporter, et son empreinte."""
        for name in recipes.RECIPES:
            if name != "nanon":
                write(cache_dir / f"{name}.txt", f"Le texte de {name}.")
        with pytest.raises(DataError, match=r"nanon n'est pas disponible.*interdit") as caught:
            load_corpus([asked], offline=True)
        recipe = recipes.RECIPES["nanon"]
        assert recipe.url in str(caught.value)
        assert recipe.sha256 in str(caught.value)

    def test_another_text_is_refused(self, monkeypatch, cache_dir):
        """Un octet de trop, ou un autre texte : rien n'est lu ni gardé."""
        for body in (b"Le texte de nanon.\n", b"Autre texte, 18 o."):
            with server(lambda handler, body=body: send(handler, body)) as (url, _):
                pin(monkeypatch, "nanon", url=url)
                with pytest.raises(DataError, match="empreinte inattendue"):
                    load_corpus(["nanon"])
        assert not cache_dir.exists()

    def test_downloaded_once(self, monkeypatch, cache_dir):
        with server(lambda handler: send(handler, b"Le texte de nanon.")) as (url, requests):
            pin(monkeypatch, "nanon", url=url)
            assert load_corpus(["nanon"]) != load_corpus(["nanon"])  # l'origine change : le cache
        assert len(requests) == 1
        assert (cache_dir / "nanon.txt").read_bytes() == b"Le texte de nanon."


def test_recipes_name_a_fixed_version():
    """L'adresse d'un roman porte un commit entier : son contenu ne peut pas changer."""
    for name, recipe in recipes.RECIPES.items():
        assert re.fullmatch("[0-9a-f]{64}", recipe.sha256)
        assert 0 < recipe.size < 2 << 20
        assert name == VERDICT or re.search("/[0-9a-f]{40}/", recipe.url)
