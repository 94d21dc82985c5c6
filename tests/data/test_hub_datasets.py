"""Les jeux de données de Hugging Face : un serveur sur 127.0.0.1 tient lieu du leur."""

import hashlib
import http.server
import json
import threading
from urllib.parse import unquote

import pytest
from test_readers import table_of

from gpt_architecture.data.texts import hub
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.errors import ConfigurationError, DataError

SHA = "a" * 40
FILES = {
    "default/train/0000.parquet": table_of("parquet", ["un", "deux"]),
    "default/train/0001.parquet": table_of("parquet", ["trois"]),
    "default/test/0000.parquet": table_of("parquet", ["quatre"]),
    "autre/partial-train/0000.parquet": table_of("parquet", ["cinq"]),
}
REPOSITORIES = {"moi/contes": FILES, "moi/deux": ("fr/train/0.parquet", "en/train/0.parquet")}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Deux jeux : moi/contes, qui a une configuration « default », et moi/deux, qui n'en a pas."""
    from huggingface_hub import constants

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def respond(self, *, body):
            asked.append(path := unquote(self.path.split("?")[0]))
            data, headers = b"", {}
            known = next((names for repo, names in REPOSITORIES.items() if repo in path), ())
            if "/revision/" in path and known:
                siblings = [{"rfilename": name} for name in known]
                data = json.dumps({"id": "x/y", "sha": SHA, "siblings": siblings}).encode()
            elif "/tree/" in path and known:
                tree = [{"type": "file", "oid": SHA, "size": 1, "path": name} for name in known]
                data = json.dumps(tree).encode()
            elif (name := path.partition(f"/resolve/{SHA}/")[2]) in FILES:
                data = FILES[name]
                headers = {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self.send_response(200 if data else 404)
            for key, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_GET(self):
            self.respond(body=True)

        def do_HEAD(self):
            self.respond(body=False)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def texts(name, **options):
    return load_corpus([name], **options).text.split("<|endoftext|>")


@pytest.mark.slow
def test_a_dataset_is_read_like_any_parquet(server):
    """La part d'entraînement de la configuration par défaut, puis hors ligne, depuis le cache."""
    with pytest.raises(DataError, match="pas en cache, et le réseau est interdit"):
        texts("hf:moi/contes", offline=True)
    assert server == []
    assert texts("hf:moi/contes") == ["un", "deux", "trois"]
    assert not any("test" in path for path in server)  # le reste n'est pas téléchargé
    assert load_corpus(["hf:moi/contes"]).name == "hf:moi/contes"
    assert texts("hf:moi/contes:default:test") == ["quatre"]
    assert texts("hf:moi/contes:autre") == ["cinq"]
    server.clear()
    assert texts("hf:moi/contes", offline=True) == ["un", "deux", "trois"]
    assert server == []


@pytest.mark.slow
def test_what_does_not_exist_is_said(server):
    for name, words in {
        "hf:moi/absent": "introuvable",
        "hf:moi/deux": "a 2 configurations : en, fr",
        "hf:moi/contes:default:validation": "parts : test, train",
    }.items():
        with pytest.raises(DataError, match=words):
            texts(name)


def test_a_malformed_name_is_refused():
    """Un nom n'est ni un motif ni un chemin : rien n'est cherché hors du jeu."""
    names = ("hf:", "hf:a/b/c", "hf:a/b:c:d:e", "hf:a/b:/etc", "hf:a/b:..", "hf:a/b:c:*", "hf:../b")
    for name in names:
        with pytest.raises(ConfigurationError, match="AUTEUR/NOM"):
            texts(name)
