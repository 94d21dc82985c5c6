"""infer --server et chat --server : un service écrit, la commande montre."""

import io
import json
import socket
import sys
import threading
from dataclasses import replace

import pytest
import torch
from adapter_helpers import an_adapter, beside, merged
from decoding_helpers import LetterTokenizer
from http_helpers import (
    CHAT_TEMPLATE,
    NAME,
    ScriptedEngine,
    closed,
    make_context,
    running_engine,
    serving,
    small_model,
    small_service,
)

from gpt_architecture.cli.remote import Service, remote_settings
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.adapters import follow_adapters_
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.serving.adapters import AdapterShelf
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.http.access import KeyRing

KEY = "cle-de-passage-0123456789"
PROMPT = "le passeur"


@pytest.fixture(scope="module")
def url():
    """Le petit modèle, avec une clé et un gabarit."""
    with small_service(chat=True, keys=KeyRing([KEY])) as (found, _):
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """La clé, là où la commande la cherche."""
    monkeypatch.setenv("GPT_ARCHITECTURE_API_KEY", KEY)


def texts(**settings):
    """Ce que le modèle écrit, hors du service."""
    found = Generator(small_model(), LetterTokenizer()).generate(
        [PROMPT], GenerationConfig(**settings)
    )
    return [each.text for each in found[0]]


@pytest.mark.slow
def test_infer_shows_what_the_model_writes(url, cli):
    """Mêmes réglages, même graine : le texte que le modèle écrirait ici."""
    options = ("--prompt", PROMPT, "--max-tokens", 20, "--seed", 4)
    filters = ("--temperature", 0.9, "--top-k", 9, "--top-p", 0.8, "--logit-bias", "3=1.5")
    found = cli("infer", "--server", url, *options, *filters)
    settings = {"strategy": "sample", "temperature": 0.9, "k": 9, "p": 0.8}
    expected = texts(max_tokens=20, seed=4, logit_bias={3: 1.5}, **settings)
    assert (found.code, found.out) == (0, PROMPT + expected[0] + "\n")
    greedy = cli("infer", "--server", f"{url}/v1/", *options)
    assert greedy.out == PROMPT + texts(max_tokens=20)[0] + "\n"


@pytest.mark.slow
def test_infer_sends_its_lookup(url, cli):
    """Les propositions se font au service ; le texte est celui qu'il écrirait sans elles."""
    options = ("infer", "--server", url, "--prompt", PROMPT, "--max-tokens", 20, "--seed", 4)
    found = cli(*options, "--lookup", 4, "--lookup-ngram", 1)
    assert (found.code, found.out) == (0, cli(*options).out)
    sent = remote_settings(GenerationConfig(lookup=4, lookup_ngram=1))
    assert (sent["lookup"], sent["lookup_ngram"]) == (4, 1)
    too_long = cli(*options, "--lookup", 4, "--lookup-ngram", 33)
    too_long.check_one_line_error(1, "lookup_ngram doit être au plus 32")


@pytest.mark.slow
def test_infer_writes_json(url, cli, tmp_path):
    """Plusieurs débuts, plusieurs suites : un objet par ligne."""
    (tmp_path / "debuts.txt").write_text(f"{PROMPT}\nle lac\n", encoding="utf-8")
    options = ("--prompts", tmp_path / "debuts.txt", "--n", 2, "--seed", 4, "--temperature", 1)
    found = cli("infer", "--server", url, *options, "--max-tokens", 8, "--json", "--logprobs", 1)
    records = [json.loads(line) for line in found.out.splitlines()]
    assert [record["prompt"] for record in records] == [PROMPT, PROMPT, "le lac", "le lac"]
    expected = texts(strategy="sample", max_tokens=8, seed=4, n=2)
    assert [record["completion"] for record in records[:2]] == expected
    assert records[0]["logprobs"]["token_logprobs"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--model", "m.pt"), 2, "--model"),
        (("--score",), 2, "--score"),
        (("--trace",), 2, "--trace"),
        (("--strategy", "beam"), 2, "strategy=beam"),
        (("--xtc-probability", 0.5), 2, "xtc_probability"),
        (("--max-tokens", 100_000), 1, "4096"),
        (("--max-tokens", 300), 1, "contexte de ce modèle"),  # sans la seconde ligne, en anglais
        (("--regex", "("), 1, "l'un d'eux (attendu"),  # sans son point, au milieu d'une phrase
    ],
)
def test_what_cannot_be_asked_is_refused(url, cli, options, code, word):
    """Ce que le service ne sait pas faire est dit, sans rien écrire."""
    found = cli("infer", "--server", url, "--prompt", PROMPT, *options)
    found.check_one_line_error(code, word)
    assert found.out == ""


@pytest.mark.slow
def test_no_service_is_a_clear_error(cli, monkeypatch, url):
    """Adresse fausse, service absent ou d'une autre sorte, clé fausse : une phrase chacun."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ask = ("--prompt", PROMPT)
    cli("infer", "--server", "ici", *ask).check_one_line_error(2, "--server")
    cli("infer", "--server", "file:///etc/passwd", *ask).check_one_line_error(2, "--server")
    silent = f"http://127.0.0.1:{port}"
    cli("infer", "--server", silent, *ask).check_one_line_error(1, "ne répond pas")
    cli("infer", "--server", f"{url}/docs", *ask).check_one_line_error(1, "refuse")
    monkeypatch.setenv("GPT_ARCHITECTURE_API_KEY", "fausse")
    cli("infer", "--server", url, *ask).check_one_line_error(1, "clé d'accès")


def read_request(link):
    """Lit une requête HTTP entière, corps compris."""
    with link.makefile("rb") as stream:
        size = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        stream.read(size)


MODELS = b'{"data": [{"id": "m"}]}'


def told_by(cli, answers, *options):
    """Ce que dit `infer` d'un service qui répond ces octets, une connexion après l'autre."""

    def answer(server):
        for body in answers:
            link, _ = server.accept()
            with link:
                read_request(link)  # fermer sans tout lire romprait la connexion
                link.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = cli("infer", "--server", url, "--prompt", PROMPT, *options)
        thread.join(10)
    return found


@pytest.mark.slow
def test_a_cut_answer_is_an_error(cli):
    """Un service qui se tait au milieu d'un flux : la fin manque, et c'est dit."""
    found = told_by(cli, [MODELS, b'data: {"choices": [{"text": " de"}]}\n\n'])
    found.check_one_line_error(1, "interrompue")


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices": 3}',
        b'{"choices": [4]}',
        b'{"choices": [{"text": 5}]}',
        b'{"choices": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"[]",
    ],
)
def test_what_is_not_an_answer_is_said(cli, event):
    """Un service qui répond autre chose, au fil de l'eau ou d'un bloc : une phrase, sans pile."""
    told_by(cli, [MODELS, b"data: " + event + b"\n\n"]).check_one_line_error(1, "d'OpenAI")
    told_by(cli, [MODELS, event], "--json").check_one_line_error(1, "d'OpenAI")


@pytest.mark.parametrize("error", [b'"non"', b'{"message": "non"}', b"null", b"{}"])
def test_every_form_of_error_is_said(cli, error):
    event = b'data: {"error": ' + error + b"}\n\n"
    told_by(cli, [MODELS, event]).check_one_line_error(1, "refuse ou échoue")


def test_a_service_commands_no_terminal(cli):
    """Ce que dit un service s'affiche sans ses commandes de terminal."""
    event = rb'data: {"error": {"message": "rouge \u001b[31m"}}' + b"\n\n"
    found = told_by(cli, [MODELS, event])
    found.check_one_line_error(1, "rouge")
    assert "\x1b" not in found.err


@pytest.mark.parametrize("name", ["", "é/\udcff", "x" * 10_000, "a\nb"])
def test_a_strange_name_is_sent_as_it_is(monkeypatch, name):
    """Le service en juge ; il n'est ni coupé ni cherché dans la liste."""
    service, sent = Service("http://127.0.0.1:1", model=name, key="k"), []
    monkeypatch.setattr(
        service, "_whole", lambda _path, body: sent.append(body) or {"choices": [{"text": "a"}]}
    )
    service.complete(PROMPT, {})
    assert sent[0]["model"] == name
    assert json.loads(json.dumps(sent[0]))["model"] == name


@pytest.mark.slow
def test_the_model_of_a_service_is_chosen_by_its_name(cli, monkeypatch):
    """Un adaptateur répond par `infer` et par `chat` ; un nom inconnu : ceux qui sont servis."""
    base = small_model()
    follow_adapters_(base)
    found = an_adapter(base, 1, size=0.5)
    shelf = AdapterShelf(lambda _path: (beside(base, found), {}), rank_bytes=1, taken=(NAME,))
    shelf.add("un", "un")
    with running_engine(base) as engine:
        context = replace(make_context(engine, chat=True), shelf=shelf)
        with serving(create_app(context)) as url:
            ask = ("infer", "--server", url, "--prompt", PROMPT, "--max-tokens", 20)
            alone, named = cli(*ask), cli(*ask, "--server-model", NAME)
            other = cli(*ask, "--server-model", "un")
            told = cli(*ask, "--server-model", "un", "--json")
            cli(*ask, "--server-model", "deux").check_one_line_error(
                1, "deux", f"« {NAME} », « un »"
            )
            monkeypatch.setattr(sys, "stdin", io.StringIO("bonjour\n"))
            spoken = cli("chat", "--server", url, "--server-model", "un", "--max-tokens", 12)
    assert alone.out == named.out == PROMPT + texts(max_tokens=20)[0] + "\n"
    writer = Generator(merged(base, found), LetterTokenizer())
    expected = writer.generate([PROMPT], GenerationConfig(max_tokens=20))[0][0].text
    assert other.out == f"{PROMPT}{expected}\n" != alone.out
    assert (json.loads(told.out)["completion"], json.loads(told.out)["model"]) == (expected, "un")
    config = GenerationConfig(max_tokens=12)
    said = writer.generate(["user, bonjour. assistant,"], config)[0][0].text
    assert spoken.out == f"{said}\n"


def test_a_served_name_needs_a_service(cli):
    for command in ("infer", "chat"):
        cli(command, "--server-model", "un").check_one_line_error(2, "--server-model", "--server")


@pytest.mark.slow
def test_chat_keeps_the_conversation(url, cli, monkeypatch):
    """Chaque question est posée avec ce qui précède ; /oublier recommence."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("bonjour\n\n/oublier\nbonjour\nencore\n"))
    found = cli("chat", "--server", url, "--max-tokens", 12, "--seed", 2, "--temperature", 1)
    assert found.code == 0, found.err
    first, again, third = found.out.split("\n")[:3]
    prompt = "user, bonjour. assistant,"
    model = Generator(small_model(), LetterTokenizer())
    config = GenerationConfig(strategy="sample", max_tokens=12, seed=2)
    assert first == again == model.generate([prompt], config)[0][0].text
    longer = f"user, bonjour. assistant, {again}. user, encore. assistant,"
    assert third == model.generate([longer], config)[0][0].text


@pytest.mark.slow
def test_chat_refusals(cli, monkeypatch):
    """Un modèle sans gabarit, un service qui s'arrête : la phrase du service."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("bonjour\n"))
    with serving(create_app(make_context(ScriptedEngine(error=closed())))) as found:
        cli("chat", "--server", found).check_one_line_error(1, "gabarit de conversation")
    for lacking in ("--n", "--logprobs"):  # une réponse par question, dont le texte seul se montre
        asked = ("chat", "--server", "http://127.0.0.1:1", lacking, 2)
        cli(*asked).check_one_line_error(2, f"option inconnue : {lacking}")


@pytest.mark.slow
def test_chat_with_a_model_here(tmp_path, cli, monkeypatch):
    """Sans --server, le modèle est chargé ici ; sans gabarit, c'est dit avant toute question."""
    tokenizer = get_tokenizer("simple-v2", text="user, bonjour. assistant, oui non lac bateau")
    torch.manual_seed(0)
    model = GPTModel(
        GPTConfig(
            vocab_size=tokenizer.vocab_size,
            context_length=64,
            emb_dim=16,
            n_heads=2,
            n_layers=1,
            drop_rate=0.0,
        )
    )
    metadata = {"chat_template": CHAT_TEMPLATE}
    for name, found in (("avec.pt", metadata), ("sans.pt", {})):
        save_model(tmp_path / name, model, model.cfg, tokenizer=tokenizer.to_dict(), metadata=found)
    options = ("--max-tokens", 5, "--seed", 3, "--temperature", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("bonjour\n"))
    spoken = cli("chat", "--model", tmp_path / "avec.pt", *options)
    once = cli("infer", "--model", tmp_path / "avec.pt", "--chat", "bonjour", *options)
    assert spoken.code == 0, spoken.err
    assert spoken.out == once.out
    monkeypatch.setattr(sys, "stdin", io.StringIO("bonjour\n"))
    refused = cli("chat", "--model", tmp_path / "sans.pt")
    refused.check_one_line_error(2, "gabarit", "faites-lui continuer un texte")
    assert "--prompt" not in refused.err  # chat n'a pas cette option
    for options in (("--regex", "["), ("--logit-bias", "99999=1")):  # dit sans attendre de question
        monkeypatch.setattr(sys, "stdin", None)
        refused = cli("chat", tmp_path / "avec.pt", *options)
        assert (refused.code, refused.out) == (2, ""), refused.err
    refused = cli("chat", tmp_path / "avec.pt", "--server", "http://127.0.0.1:1")
    refused.check_one_line_error(2, "--model", "--server")


class TestProxy:
    """Un mandataire n'est suivi que là où il le faut, et c'est lui que l'erreur nomme."""

    @pytest.fixture
    def proxy(self, monkeypatch):
        """Un mandataire qui ne mène nulle part : s'y adresser échoue."""
        for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://moi:secret@127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", address)
        return address

    @pytest.mark.slow
    def test_this_machine_is_reached_directly(self, url, cli, proxy):
        options = ("--prompt", PROMPT, "--max-tokens", 2)
        for server in (url, url.replace("127.0.0.1", "localhost")):
            found = cli("infer", "--server", server, *options)
            assert found.code == 0, found.err

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("server", "no_proxy", "expected"),
        [
            ("http://127.0.0.1:8000", "", False),
            ("http://127.3.2.1", "", False),
            ("http://[::1]:8000/v1", "", False),
            ("http://localhost:8000", "", False),
            ("http://studio.localhost", "", False),
            ("http://modele.exemple", "", True),
            ("http://modele.exemple", "exemple", False),
            ("http://modele.exemple:81", ".exemple", False),
            ("http://modele.exemple:81", "modele.exemple:81", False),
            ("http://modele.exemple:81", "modele.exemple:82", True),
            ("http://modele.exemple", "*", False),
            ("http://192.0.2.7", "192.0.2.7", False),
            ("https://modele.exemple", "", False),  # https_proxy n'est pas donné
        ],
    )
    def test_who_goes_through_it(self, monkeypatch, proxy, server, no_proxy, expected):
        monkeypatch.setenv("no_proxy", no_proxy)
        assert (Service(server)._proxy == proxy) is expected

    @pytest.mark.slow
    def test_the_error_names_the_proxy(self, cli, proxy):
        found = cli("infer", "--server", "http://modele.exemple", "--prompt", "x")
        found.check_one_line_error(1, "mandataire http://127.0.0.1", "no_proxy")
        assert "secret" not in found.err
