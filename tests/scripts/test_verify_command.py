"""`gpt-architecture verify` : ce qu'elle dit, en texte et en JSON, et ses codes de sortie."""

import json
import shutil
import stat

import pytest
from certificate_helpers import nudged_model, skipped_step
from cli_helpers import tiny

from gpt_architecture.storage.chain import CERTIFICATE, read_chain

RUN = {"tokenizer": "char", "engine": "autograd", "max_steps": 6, "save_every": 2, "keep": 9}


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """Une paire de clés."""
    serialization = pytest.importorskip(
        "cryptography.hazmat.primitives.serialization", reason="cryptography n'est pas installé"
    )
    from cryptography.hazmat.primitives.asymmetric import ed25519

    folder = tmp_path_factory.mktemp("cles")
    for name in ("une", "autre"):
        made = ed25519.Ed25519PrivateKey.generate()
        path = folder / f"{name}.pem"
        path.write_bytes(
            made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        path.chmod(0o600)
        (folder / f"{name}.pub.pem").write_bytes(
            made.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    return folder


@pytest.fixture
def trained(cli, tmp_path, key):
    """Un entraînement signé."""
    folder = tmp_path / "m"
    done = cli("train", *tiny(**RUN, output_dir=folder, sign_key=key / "une.pem"))
    assert done.code == 0, done.err
    return folder


def test_it_conforms_and_says_so(cli, trained, key):
    found = cli("verify", trained, "--all", "--public-key", key / "une.pub.pem")
    assert found.code == 0, (found.out, found.err)
    assert found.out.startswith("Conforme, au bit près : 6 étapes sur 6")
    assert "Signature vérifiée." in found.out
    assert stat.S_IMODE((key / "une.pem").stat().st_mode) == 0o600


def test_json(cli, trained, tmp_path):
    out = tmp_path / "v.json"
    found = cli("verify", trained, "--part", "30%", "--seed", "3", "--json", "--json-file", out)
    record = json.loads(found.out)
    assert (found.code, record["conforming"], record["exact"], record["seed"]) == (0, True, True, 3)
    assert record["replayed"] == 2
    assert json.loads(out.read_text(encoding="utf-8"))["generator"].endswith("verify")


@pytest.mark.parametrize(("forge", "word"), [(nudged_model, "modèle"), (skipped_step, "sautée")])
def test_what_differs_is_said_and_the_code_is_one(cli, trained, forge, word):
    forge(trained, None, 2)
    found = cli("verify", trained / "gpt-model.pt", "--all")
    assert found.code == 1
    assert word in found.out.splitlines()[0]
    assert found.out.startswith("Non conforme")


def test_another_key_or_none(cli, trained, key):
    found = cli("verify", trained, "--chain-only", "--public-key", key / "autre.pub.pem")
    assert (found.code, "signature" in found.out) == (1, True)
    found = cli("verify", trained, "--chain-only")
    assert (found.code, "n'est pas vérifiée" in found.out) == (0, True)
    assert cli("train", "--resume", trained, "--max-steps", "8").code == 0
    assert read_chain(trained / CERTIFICATE).links[-1]["step"] == 8
    found = cli("verify", trained, "--chain-only", "--public-key", key / "une.pub.pem")
    assert found.code == 1  # la suite n'est pas signée


def test_refusals_are_one_line(cli, trained, key, tmp_path):
    (key / "une.pem").chmod(0o644)
    out = cli("train", *tiny(**RUN, output_dir=tmp_path / "n", sign_key=key / "une.pem"))
    (key / "une.pem").chmod(0o600)
    out.check_one_line_error(2, "chmod 600")
    assert not (tmp_path / "n").exists()
    cli("verify", trained, "--part", "12").check_one_line_error(2, "--part")
    shutil.copy(trained / CERTIFICATE, tmp_path / "c.json")
    (trained / CERTIFICATE).unlink()
    cli("verify", trained).check_one_line_error(1, "certificat introuvable")
    assert cli("verify", trained, "--certificate", tmp_path / "c.json", "--chain-only").code == 0
    (tmp_path / "c.json").write_text("x" * 99, encoding="utf-8")
    refused = cli("verify", trained, "--certificate", tmp_path / "c.json")
    refused.check_one_line_error(1, "illisible")


def test_a_foreign_certificate_is_not_overwritten(cli, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / CERTIFICATE).write_text("mon diplôme", encoding="utf-8")
    found = cli("train", *tiny(**RUN, output_dir=tmp_path / "m"))
    assert found.code != 0
    assert (tmp_path / "m" / CERTIFICATE).read_text(encoding="utf-8") == "mon diplôme"
