"""`push` et `pull` : un dossier partagé, et un faux Hub sur 127.0.0.1."""

import base64
import hashlib
import http.server
import json
import threading
from urllib.parse import unquote

import pytest
from cli_helpers import tiny

from gpt_architecture import load, pull, push, verify
from gpt_architecture.errors import ConfigurationError, ModelFileError, OutputError
from gpt_architecture.interop import hub

FILES = {
    *("README.md", "SHA256SUMS", "certificat.json", "config.json", "generation_config.json"),
    *("gpt_architecture.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"),
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Un entraînement minuscule, en mode livre, certificat compris."""
    from gpt_architecture.main import main

    folder = tmp_path_factory.mktemp("partage") / "modele"
    with pytest.raises(SystemExit) as done:
        main(["train", *tiny(tokenizer="bpe-300", max_steps=3, output_dir=folder)])
    assert done.value.code == 0
    return folder


def test_a_shared_folder_and_back(cli, model, tmp_path):
    """Même texte, même certificat, vérifié sur ce qui a été repris."""
    place = tmp_path / "disque" / "lampe"
    outcome = cli("push", model, place, "--license", "mit")
    assert outcome.code == 0, outcome.err
    assert "avec certificat" in outcome.out
    assert {each.name for each in place.iterdir()} == FILES
    assert "license: mit" in (place / "README.md").read_text("utf-8")
    outcome = cli("pull", place, tmp_path / "ici")
    assert outcome.code == 0, outcome.err
    assert "empreintes vérifiées" in outcome.out
    written = [load(each).generate("La", max_tokens=8) for each in (model, tmp_path / "ici")]
    assert written[0] == written[1]
    assert verify(tmp_path / "ici", chain_only=True).conforming
    record = json.loads(cli("pull", place, tmp_path / "ici", "--force", "--json").out)
    assert (record["verified"], record["certificate"]) == (True, True)


def test_nothing_is_taken_unless_asked(cli, model, tmp_path):
    place = tmp_path / "lampe"
    push(model, place)
    cli("push", model, place).check_one_line_error(1, "existe déjà", "--force")
    (tmp_path / "ici").mkdir()
    (tmp_path / "ici" / "lettre.txt").write_text("à moi", encoding="utf-8")
    cli("pull", place, tmp_path / "ici").check_one_line_error(1, "existe déjà")
    cli("pull", place, tmp_path / "ici", "--force").check_one_line_error(1, "ici")
    assert (tmp_path / "ici" / "lettre.txt").read_text("utf-8") == "à moi"
    cli("pull", place, place, "--force").check_one_line_error(1, "entrée de cette commande")
    cli("pull", tmp_path / "absent", tmp_path / "x").check_one_line_error(1, "safetensors")
    cli("push", model).check_one_line_error(2, "MODÈLE LIEU")


@pytest.mark.parametrize("change", ["octet", "en trop", "absent", "sommes", "pickle"])
def test_what_changed_on_the_way_is_refused(model, tmp_path, change):
    place, weights = tmp_path / "lampe", tmp_path / "lampe" / "model.safetensors"
    push(model, place)
    if change == "octet":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif change == "en trop":
        (place / "chat_template.jinja").write_text("{{ 1 }}", encoding="utf-8")
    elif change == "absent":
        (place / "config.json").unlink()
    elif change == "sommes":
        (place / "SHA256SUMS").write_text("rien", encoding="utf-8")
    else:
        weights.rename(place / "pytorch_model.bin")
    with pytest.raises(ModelFileError):
        pull(place, tmp_path / "ici")
    assert not (tmp_path / "ici").exists()


def test_without_sums_it_is_said(model, tmp_path):
    push(model, tmp_path / "lampe")
    (tmp_path / "lampe" / "SHA256SUMS").unlink()
    assert pull(tmp_path / "lampe", tmp_path / "ici").verified is False
    (tmp_path / "lampe" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ModelFileError, match="bert"):
        pull(tmp_path / "lampe", tmp_path / "encore")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Un Hub de quelques lignes : créer, déposer en un commit, lister, donner ; rend ses dépôts."""
    from huggingface_hub import constants

    kept, asked = {}, []
    sha = "b" * 40

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, data=b"{}", code=200, **headers):
            self.send_response(code)
            for key, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            path = unquote(self.path.split("?")[0])
            asked.append((path, self.headers.get("Authorization")))
            if path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted.get('organization', 'moi')}/{wanted['name']}"
                if name in kept:
                    return self.answer(json.dumps({"url": name}).encode(), 409)
                hidden = wanted.get("private") is True or wanted.get("visibility") == "private"
                kept[name] = {"private": hidden, "files": {}}
                return self.answer(json.dumps({"url": f"{hub.ENDPOINT}/{name}"}).encode())
            if path == "/api/validate-yaml":  # l'en-tête de la fiche
                return self.answer(b'{"errors": [], "warnings": []}')
            if "/preupload/" in path:
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                return self.answer(json.dumps({"files": files}).encode())
            name = path.removeprefix("/api/models/").rpartition("/commit")[0]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "deletedFile":
                    del kept[name]["files"][value["path"]]
                if entry["key"] == "file":
                    kept[name]["files"][value["path"]] = base64.b64decode(value["content"])
            done = {"commitUrl": f"{hub.ENDPOINT}/{name}/commit/{sha}", "commitOid": sha}
            return self.answer(json.dumps({"success": True, **done}).encode())

        def do_GET(self):
            path = unquote(self.path.split("?")[0])
            asked.append((path, self.headers.get("Authorization")))
            name = next((each for each in kept if each in path), None)
            if name is None:
                return self.answer(code=404)
            files = kept[name]["files"]
            wanted = path.partition(f"/resolve/{sha}/")[2]
            if wanted in files:
                tag = hashlib.sha256(files[wanted]).hexdigest()
                return self.answer(files[wanted], X_Repo_Commit=sha, ETag=f'"{tag}"')
            if "/tree/" in path:
                tree = [
                    {"type": "file", "oid": sha, "size": len(data), "path": each}
                    for each, data in files.items()
                ]
                return self.answer(json.dumps(tree).encode())
            if wanted:
                return self.answer(code=404)
            siblings = [{"rfilename": each} for each in files]
            return self.answer(json.dumps({"id": name, "sha": sha, "siblings": siblings}).encode())

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        for each in (proxy, proxy.upper()):
            monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_jeton")
    yield kept, asked
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.mark.slow
def test_the_hub_and_back(cli, model, server, tmp_path):
    kept, asked = server
    outcome = cli("push", model, "hub:moi/lampe")
    assert outcome.code == 0, outcome.err
    assert kept["moi/lampe"]["private"] is True
    assert set(kept["moi/lampe"]["files"]) == FILES
    assert all(token == "Bearer hf_jeton" for _, token in asked)  # noqa: S105 — un faux jeton
    assert "hf_jeton" not in outcome.out + outcome.err
    found = pull("hub:moi/lampe", tmp_path / "ici")
    assert found.verified
    assert found.certificate
    assert verify(tmp_path / "ici", chain_only=True).conforming
    # la même adresse se charge sans reprise, métadonnées comprises
    assert load("hub:moi/lampe").config == load(model).config
    cli("push", model, "hub:moi/lampe").check_one_line_error(1, "moi/lampe existe déjà", "--force")
    kept["moi/lampe"]["files"] |= {"model-1.safetensors": b"ancien", "notes.txt": b"rien"}
    outcome = cli("push", model, "hub:moi/lampe", "--force")
    assert outcome.code == 0, outcome.err
    assert set(kept["moi/lampe"]["files"]) == {*FILES, "notes.txt"}
    assert cli("push", model, "hub:moi/ouvert", "--public").code == 0
    assert kept["moi/ouvert"]["private"] is False
    with pytest.raises(ModelFileError):
        pull("hub:moi/vide", tmp_path / "autre")


def test_no_network_no_token(model, monkeypatch, tmp_path):
    """Refusés d'une phrase, avant tout envoi ; rien n'est écrit."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigurationError, match="aucun jeton"):
        push(model, "hub:moi/lampe")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_jeton")
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match="n'a pas pris moi/lampe"):
        push(model, "hub:moi/lampe")
    with pytest.raises(ModelFileError, match="n'a pas donné moi/lampe"):
        pull("hub:moi/lampe", tmp_path / "ici")
    with pytest.raises(ModelFileError, match="nom de dépôt"):
        push(model, "hub:../../etc")
    assert not (tmp_path / "ici").exists()
