"""Une chaîne d'empreintes : lue sans PyTorch, vérifiée à la main, signée si l'on a une clé."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from gpt_architecture.errors import (
    CertificateError,
    ConfigurationError,
    MissingDependencyError,
    OutputError,
)
from gpt_architecture.storage.chain import (
    ORIGIN,
    Chain,
    Signer,
    is_chain,
    is_signed,
    read_chain,
    read_public_key,
)

_CURVE = {
    "PRIVATE": "MGQCAQAwFAYHKoZIzj0CAQYJKyQDAwIIAQEBBEkwRwIBAQQUIh9ky7y279Xh1mh1R/a+UuNaM+yhLAMq"
    "AASe1hVQHI3OjnrRwdttZJ5OHziu+Dm9qbXNwf2M8sR7k3vw8zs2Df0u",
    "PUBLIC": "MEIwFAYHKoZIzj0CAQYJKyQDAwIIAQEBAyoABJ7WFVAcjc6OetHB221knk4fOK74Ob2ptc3B/Yzy"
    "xHuTe/DzOzYN/S4=",
}
"""Une paire d'essai, d'une courbe que cryptography ne connaît pas (brainpoolP160r1)."""


@pytest.fixture
def chain():
    made = Chain()
    made.add("start", step=0, name="é")
    made.add("steps", first=0, last=1, loss=2.5)
    made.add("end", step=2)
    return made


@pytest.fixture
def keys(tmp_path):
    """Une paire de clés, dans deux fichiers PEM."""
    serialization = pytest.importorskip(
        "cryptography.hazmat.primitives.serialization", reason="cryptography n'est pas installé"
    )
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    private, public = tmp_path / "cle.pem", tmp_path / "cle.pub.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_a_link_seals_the_one_before(chain):
    """L'oracle, à la main : le sha256 du JSON compact et trié, sans l'empreinte."""
    previous = ORIGIN
    for link in chain.links:
        body = {name: value for name, value in link.items() if name != "sha256"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        assert link["previous"] == previous
        assert link["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        previous = link["sha256"]
    assert chain.head == previous
    assert list(chain.broken()) == []


def test_what_is_written_is_read(chain, tmp_path):
    path = tmp_path / "c.json"
    chain.save(path)
    found = read_chain(str(path))
    assert (found.links, found.signature) == (chain.links, None)
    data = path.read_bytes()
    assert is_chain(data, data)
    content = json.loads(data)
    assert list(content) == sorted(content)
    chain.save(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("place", range(3))
def test_any_change_breaks_it(chain, place):
    chain.links[place]["note"] = 1
    assert next(chain.broken()) == place
    del chain.links[place]["note"], chain.links[place]
    assert list(chain.broken()) == ([place] if place < 2 else [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "illisible"),
        ("[]", "objet JSON"),
        ('{"format": "autre"}', "pas un certificat"),
        ('{"format": "gpt-architecture/certificat", "version": 2}', "version 2"),
        ('{"format": "gpt-architecture/certificat"}', "ne dit pas sa version"),
        ('{"format": "gpt-architecture/certificat", "version": 1, "links": []}', "mal formé"),
        ('{"format": "gpt-architecture/certificat", "version": 1, "links": [{}]}', "mal formé"),
        ('{"format": "gpt-architecture/certificat", "version": 1, "links": [NaN]}', "illisible"),
    ],
)
def test_what_is_not_a_certificate_is_refused(tmp_path, text, why):
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(CertificateError, match=why):
        read_chain(tmp_path / "c.json")


def test_a_folder_in_its_place_is_refused(chain, tmp_path):
    with pytest.raises(OutputError, match="impossible d'écrire"):
        chain.save(tmp_path)


def test_it_is_read_without_pytorch(chain, tmp_path):
    chain.save(tmp_path / "c.json")
    code = (
        "import sys; from gpt_architecture.storage.chain import read_chain; "
        "assert not list(read_chain(sys.argv[1]).broken()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.json"], check=True, timeout=60)


# --- La signature ------------------------------------------------------------------------------


def test_a_signature_holds_the_last_link(chain, keys, tmp_path):
    private, public = keys
    chain.save(tmp_path / "c.json", Signer(private))
    found = read_chain(tmp_path / "c.json")
    assert found.signature["public_key"] == read_public_key(public)
    assert is_signed(found.signature, found.head)
    assert not is_signed(found.signature, "0" * 64)
    for name in ("value", "public_key"):
        other = {**found.signature, name: "ab" * (64 if name == "value" else 32)}
        assert not is_signed(other, found.head)
    assert not is_signed({**found.signature, "value": "zz"}, found.head)
    found.add("resume", step=2)
    found.save(tmp_path / "c.json")  # sans clé : elle ne vaut plus que pour le passé
    assert not is_signed(read_chain(tmp_path / "c.json").signature, found.head)


def test_the_private_key_goes_nowhere(chain, keys, tmp_path):
    signer = Signer(str(keys[0]))
    chain.save(tmp_path / "c.json", signer)
    lines = keys[0].read_text(encoding="ascii").splitlines()[1:-1]
    assert not any(line in (tmp_path / "c.json").read_text(encoding="ascii") for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="les droits sont ceux de POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_private_key_that_others_can_read_is_refused(keys, mode):
    keys[0].chmod(mode)
    with pytest.raises(ConfigurationError, match=r"chmod 600"):
        Signer(keys[0])


def test_what_is_not_a_key_is_refused(keys, tmp_path):
    private, public = keys
    (tmp_path / "x.pem").write_text("rien", encoding="ascii")
    (tmp_path / "x.pem").chmod(0o600)
    public.chmod(0o600)
    for path in (tmp_path / "x.pem", public):
        with pytest.raises(ConfigurationError, match="clé privée Ed25519"):
            Signer(path)
    for path in (tmp_path / "x.pem", private):
        with pytest.raises(ConfigurationError, match="clé publique Ed25519"):
            read_public_key(path)
    for reader in (Signer, read_public_key):
        with pytest.raises(ConfigurationError, match="illisible"):
            reader(tmp_path / "absent.pem")


def test_another_kind_of_key_is_refused(keys, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    key = x25519.X25519PrivateKey.generate()
    path = tmp_path / "autre.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="Ed25519"):
        Signer(path)
    public = tmp_path / "autre.pub.pem"
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(ConfigurationError, match="publique Ed25519"):
        read_public_key(public)


@pytest.mark.parametrize("size", [63, 66])
def test_a_signature_is_hexadecimal(chain, tmp_path, size):
    chain.signature = {"head": chain.head, "public_key": "a" * size, "value": "b" * 128}
    chain.save(tmp_path / "c.json")
    with pytest.raises(CertificateError, match="mal formé"):
        read_chain(tmp_path / "c.json")


def test_a_key_of_an_unknown_curve_is_refused(tmp_path):
    pytest.importorskip("cryptography", reason="cryptography n'est pas installé")
    private, public = (tmp_path / f"{kind}.pem" for kind in _CURVE)
    for path, (kind, body) in zip((private, public), _CURVE.items(), strict=True):
        lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
        path.write_text(f"-----BEGIN {kind} KEY-----\n{lines}\n-----END {kind} KEY-----\n")
        path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="clé privée Ed25519"):
        Signer(private)
    with pytest.raises(ConfigurationError, match="clé publique Ed25519"):
        read_public_key(public)


def test_without_cryptography_one_sentence(keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    for reader, path in ((Signer, keys[0]), (read_public_key, keys[1])):
        with pytest.raises(MissingDependencyError, match="pip install"):
            reader(path)
