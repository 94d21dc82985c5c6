"""`gpt-architecture replay` : le texte, le verdict, les codes de sortie."""

import json
import shutil

import pytest
from receipt_helpers import ask, build, resealed

from gpt_architecture import load, serve

BODY = {"prompt": "Le passeur", "max_tokens": 8, "n": 2, "receipt": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Un modèle, un reçu qu'il a fait, et les textes."""
    folder = tmp_path_factory.mktemp("rejeu")
    path = build(folder)
    with serve(load(path)) as service:
        texts, receipt = ask(service.url, "/v1/completions", BODY)
    return path, texts, receipt


@pytest.fixture
def receipt(made, tmp_path):
    path = tmp_path / "recu.json"
    path.write_text(json.dumps(made[2]), encoding="utf-8")
    return path


def test_the_texts_then_the_verdict(cli, made, receipt):
    found = cli("replay", receipt, "--model", made[0])
    assert found.code == 0, found.err
    assert found.out == "\n\n---\n\n".join(made[1]) + "\n"
    assert "Identique : 2 textes, octet pour octet." in found.err


def test_the_model_here_is_taken(cli, made, receipt, tmp_path, monkeypatch):
    shutil.copy(made[0], tmp_path / "gpt-model.pt")
    monkeypatch.chdir(tmp_path)
    assert cli("replay", "recu.json").code == 0


def test_json(cli, made, receipt, tmp_path):
    out = tmp_path / "v.json"
    found = cli("replay", receipt, "--model", made[0], "--json", "--json-file", out)
    record = json.loads(found.out)
    assert (found.code, record["same"], record["texts"]) == (0, True, made[1])
    assert record["receipt_fingerprint"] == record["system_fingerprint"]
    assert json.loads(out.read_text(encoding="utf-8"))["generator"].endswith("replay")


def test_another_answer_is_code_one(cli, made, receipt):
    answers = [made[2]["answers"][0], {**made[2]["answers"][1], "tokens": [1]}]
    receipt.write_text(json.dumps(resealed(made[2], answers=answers)), encoding="utf-8")
    found = cli("replay", receipt, "--model", made[0])
    assert found.code == 1
    assert "Différent, réponse : texte 1, token 0" in found.err


def test_what_cannot_be_read_is_code_two(cli, made, receipt, tmp_path):
    cli("replay", receipt, "--model", tmp_path / "m.pt").check_one_line_error(2, "introuvable")
    cli("replay", tmp_path / "r.json", "--model", made[0]).check_one_line_error(2, "absent")
    assert cli("replay").code == 2
    wrong = cli("replay", receipt, "--model", made[0], "--public-key", made[0])
    wrong.check_one_line_error(2, "--public-key")
    receipt.write_text('{"format": "autre"}', encoding="utf-8")
    cli("replay", receipt, "--model", made[0]).check_one_line_error(2, "n'est pas un reçu")
    same = cli("replay", receipt, "--model", made[0], "--json-file", receipt)
    same.check_one_line_error(2, str(receipt.name))
