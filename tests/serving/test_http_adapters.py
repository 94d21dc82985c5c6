"""Les adaptateurs d'un service : choisis par leur nom, ajoutés et retirés par qui en a la clé."""

from dataclasses import replace

import pytest
import torch
from adapter_helpers import an_adapter, beside, merged
from http_helpers import CHAT_TEMPLATE, NAME, check_envelope, client_of, make_context, small_model
from http_helpers import running_engine as running
from receipt_helpers import KEY, ask, build, loaded

from gpt_architecture import replay, serve
from gpt_architecture.cli.options import named_paths
from gpt_architecture.core.adapters import follow_adapters_
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.adapter_file import save_adapter, weights_sha256
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.interop.peft import export_peft
from gpt_architecture.serving.adapters import AdapterShelf
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.http.observer import Observer
from gpt_architecture.serving.http.tracing import Tracing

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
KEYS = {"Authorization": f"Bearer {KEY}"}
BODY = {"prompt": "bonjour, le", "max_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def base():
    model = small_model()
    follow_adapters_(model)
    return model


@pytest.fixture
def folder(base, tmp_path):
    """Le dossier permis : trois adaptateurs, dont un de PEFT et un d'un autre modèle."""
    allowed = tmp_path / "permis"
    (allowed / "sous").mkdir(parents=True)
    save_adapter(allowed / "un.safetensors", an_adapter(base, 1, size=0.5))
    export_peft(an_adapter(base, 2, rank=2, size=0.5), allowed / "sous" / "peft")
    other = small_model()
    with torch.no_grad():
        other.tok_emb.weight.add_(1.0)
    save_adapter(allowed / "autre.safetensors", an_adapter(other, 3))
    save_adapter(allowed / "grand.safetensors", an_adapter(base, 4, rank=9))
    (allowed / "abime.safetensors").write_bytes(b"\x08" * 64)
    save_adapter(tmp_path / "dehors.safetensors", an_adapter(base, 5))
    (allowed / "lien.safetensors").symlink_to(tmp_path / "dehors.safetensors")
    return allowed


def shelf_of(base, folder=None, **options):
    def read(path):
        from gpt_architecture.formats.own_formats import read_adapters

        found = read_adapters(path)
        return beside(base, found), found.metadata

    return AdapterShelf(read, rank_bytes=4 * 24 * 2 * 18, taken=(NAME,), folder=folder, **options)


@pytest.fixture
def shelf(base, folder):
    found = shelf_of(base, folder, most=3, most_rank=8)
    found.add("un", folder / "un.safetensors")
    return found


@pytest.fixture
def client(base, shelf):
    with running(base, slots=4) as engine:
        context = replace(make_context(engine), shelf=shelf)
        with client_of(context, keys=KeyRing([KEY])) as client:
            client.headers.update(KEYS)
            yield client


def text_of(client, **changes):
    answer = client.post(COMPLETIONS, json=BODY | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_request_chooses_by_its_model(client, base, folder):
    """Le texte est celui du modèle fondu ; sans nom ou sous le sien, le modèle répond seul."""
    plain, named = text_of(client), text_of(client, model=NAME)
    assert plain["choices"] == named["choices"]
    found = text_of(client, model="un")
    assert (plain["model"], found["model"]) == (NAME, "un")
    alone = merged(base, an_adapter(base, 1, size=0.5))
    with running(alone) as engine, client_of(make_context(engine)) as other:
        expected = text_of(other)["choices"]
    assert found["choices"] == expected
    assert found["choices"] != plain["choices"]
    body = BODY | {"model": "un", "stream": True}
    assert '"model":"un"' in client.post(COMPLETIONS, json=body).text


def test_the_models_are_listed_with_their_parent(client, base):
    cards = client.get("/v1/models").json()["data"]
    assert [(each["id"], each["root"], each["parent"]) for each in cards] == [
        (NAME, NAME, None),
        ("un", NAME, NAME),
    ]
    assert cards[1]["sha256"] == beside(base, an_adapter(base, 1, size=0.5)).sha256
    assert client.get("/v1/models/un").json() == cards[1]
    tokens = client.post("/tokenize", json={"model": "un", "prompt": "oui"})
    assert tokens.json()["count"] == 3


@pytest.mark.parametrize("route", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
def test_an_unknown_name_is_refused_with_the_known_ones(client, route):
    own = {
        CHAT: {"messages": [{"role": "user", "content": "oui"}]},
        "/detokenize": {"tokens": [1]},
    }.get(route, {"prompt": "oui"})
    error = check_envelope(client.post(route, json={"model": "deux", **own}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert f"« {NAME} », « un »" in error["message"]


def test_one_is_added_then_removed(client, base, shelf):
    """D'ici ou de PEFT ; une fois retiré, son nom n'est plus servi, et se reprend."""
    asked = {"lora_name": "deux", "lora_path": "sous/peft"}
    answer = client.post(LOAD, json=asked)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], answer.json()["parent"]) == ("deux", NAME)
    first = text_of(client, model="deux")
    alone = merged(base, an_adapter(base, 2, rank=2, size=0.5))
    with running(alone) as engine, client_of(make_context(engine)) as other:
        assert first["choices"] == text_of(other)["choices"]
    assert client.post(UNLOAD, json={"lora_name": "deux"}).json()["id"] == "deux"
    check_envelope(client.post(COMPLETIONS, json=BODY | {"model": "deux"}), 404)
    check_envelope(client.post(UNLOAD, json={"lora_name": "deux"}), 404)
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == [NAME, "un"]
    absolute = {**asked, "lora_path": str(shelf.folder / "un.safetensors")}
    assert client.post(LOAD, json=absolute).status_code == 200
    assert text_of(client, model="deux")["choices"] == text_of(client, model="un")["choices"]
    error = check_envelope(client.post(UNLOAD, json={"lora_name": NAME}), 400)
    assert "un de ses adaptateurs" in error["message"]


@pytest.mark.parametrize(
    ("name", "path", "told"),
    [
        ("un", "sous/peft", "déjà servi"),
        (NAME, "sous/peft", "déjà servi"),
        ("a b", "sous/peft", "ne peut pas nommer"),
        ("../x", "sous/peft", "ne peut pas nommer"),
        ("x", "../dehors.safetensors", "n'est pas dans le dossier"),
        ("x", "sous/../../dehors.safetensors", "n'est pas dans le dossier"),
        ("x", "lien.safetensors", "n'est pas dans le dossier"),
        ("x", "/etc/passwd", "n'est pas dans le dossier"),
        ("x", ".", "n'est pas dans le dossier"),
        ("x", "absent", "n'est pas dans le dossier"),
        ("x", "hub:quelqu-un/depot", "n'est pas dans le dossier"),
        ("x", "a" * 1000, "n'est pas dans le dossier"),
        ("x", "nul\0", "n'est pas dans le dossier"),
        ("x", "sous", "adapter.safetensors"),
        ("x", "abime.safetensors", "abime.safetensors"),
        ("x", "autre.safetensors", "autre modèle"),
        ("x", "grand.safetensors", "rang 9"),
    ],
)
def test_what_cannot_be_added_is_refused(client, folder, name, path, told):
    """Une phrase, qui ne dit rien du reste du disque ; ce qui est servi ne change pas."""
    error = check_envelope(client.post(LOAD, json={"lora_name": name, "lora_path": path}), 400)
    assert told in error["message"]
    assert str(folder.parent) not in error["message"]
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == [NAME, "un"]


def test_their_number_and_size_are_bounded(client, base, shelf, folder):
    """Un retiré qu'une réponse emploie encore compte ; sa place revient ensuite."""
    kept = shelf.served["un"].adapter
    client.post(UNLOAD, json={"lora_name": "un"})
    for name in "ab":
        client.post(LOAD, json={"lora_name": name, "lora_path": "sous/peft"})
    asked = {"lora_name": "c", "lora_path": "sous/peft"}
    error = check_envelope(client.post(LOAD, json=asked), 400)
    assert "3 adaptateurs en mémoire, dont 1 que des réponses" in error["message"]
    del kept
    assert client.post(LOAD, json=asked).status_code == 200
    client.post(UNLOAD, json={"lora_name": "c"})
    with (folder / "gros.safetensors").open("wb") as file:
        file.truncate(1 << 30)
    error = check_envelope(client.post(LOAD, json={**asked, "lora_path": "gros.safetensors"}), 400)
    assert "octets" in error["message"]


@pytest.mark.parametrize(("keys", "opened"), [(None, True), (KeyRing([KEY]), False)])
def test_without_a_key_or_a_folder_nothing_changes(base, folder, keys, opened):
    """Sans clé, sans dossier permis, ou sans la bonne clé : refusé avant toute lecture."""
    with running(base) as engine:
        shelf = shelf_of(base, folder if opened else None)
        with client_of(replace(make_context(engine), shelf=shelf), keys=keys) as client:
            for route, more in ((LOAD, {"lora_path": "un.safetensors"}), (UNLOAD, {})):
                body = {"lora_name": "x", **more}
                error = check_envelope(client.post(route, json=body, headers=KEYS), 403)
                assert error["code"] == "adapters_not_allowed"
                assert ("--api-key-file" if opened else "--adapters-dir") in error["message"]
                if keys:
                    check_envelope(client.post(route, json=body), 401)


def test_a_response_keeps_the_one_it_began_with(base, shelf):
    """Retiré au milieu d'un texte, l'adaptateur l'écrit jusqu'au bout."""
    from serving_helpers import Gate, request, submit

    gate = Gate(base, opened=True)
    adapter = shelf.served["un"].adapter
    each = replace(request("bonjour, le", max_tokens=20), adapter=adapter)
    with running(gate, slots=2) as engine:
        (box,) = submit(engine, each)
        expected = (box.wait(), box.tokens)[1]
    gate = Gate(base)
    with running(gate, slots=2, drafts=0) as engine:
        gate.open(1)
        engine.wait_started()
        (box,) = submit(engine, each)
        gate.open(3)
        assert box.started.wait(30)
        assert shelf.remove("un").adapter is adapter
        assert "un" not in shelf.served
        gate.open(100)
        box.wait()
    assert box.tokens == expected


MESSAGES = [{"role": "user", "content": "oui"}]
SETTINGS = {"temperature": 0, "ignore_eos": True}
ROUTES = {
    CHAT: ({"messages": MESSAGES, "max_tokens": 6}, lambda found: found["choices"]),
    "/v1/responses": (
        {"input": "oui", "max_output_tokens": 6},
        lambda found: found["output"][0]["content"],
    ),
    "/v1/messages": ({"messages": MESSAGES, "max_tokens": 6}, lambda found: found["content"]),
}


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_that_writes_answers_with_it(base, shelf, route):
    """Sous chaque forme, le texte est celui du modèle fondu, et le nom celui de l'adaptateur."""
    body, written = ROUTES[route]
    asked = SETTINGS | body
    with running(base, slots=4) as engine:
        context = replace(make_context(engine, chat=True), shelf=shelf)
        with client_of(context) as client:
            plain, found = (
                client.post(route, json=asked | {"model": each}) for each in (NAME, "un")
            )
            stranger = client.post(route, json=asked | {"model": "deux"})
    assert found.status_code == 200, found.text
    assert found.json()["model"] == "un"
    assert stranger.status_code == 404
    alone = merged(base, an_adapter(base, 1, size=0.5))
    with running(alone) as engine, client_of(make_context(engine, chat=True)) as client:
        expected = client.post(route, json=asked | {"model": NAME})
    assert written(found.json()) == written(expected.json()) != written(plain.json())


def test_what_it_does_not_change_is_refused(client):
    """Ni vecteurs ni jugement sous son nom : ce seraient ceux du modèle seul."""
    error = check_envelope(client.post("/v1/embeddings", json={"model": "un", "input": "a"}), 400)
    assert (error["code"], error["param"]) == ("no_embeddings", "model")
    assert f"« {NAME} »" in error["message"]
    assert client.post("/v1/embeddings", json={"model": NAME, "input": "a"}).status_code == 200


def test_the_trace_of_a_request_names_it(base, shelf):
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    observer = Observer(tracing=Tracing(exporter))
    with running(base) as engine:
        context = replace(make_context(engine), shelf=shelf)
        with client_of(context, observer=observer) as client:
            text_of(client, model="un")
            text_of(client)
        observer.close()
    named = [each.attributes["gen_ai.response.model"] for each in exporter.get_finished_spans()]
    assert named == ["un", NAME]


def test_it_may_bring_its_chat_template(base, tmp_path):
    """Un affinage sur des conversations répond à des messages que son modèle ne sait pas lire."""
    file = an_adapter(base, 1, metadata={"chat_template": CHAT_TEMPLATE})
    save_adapter(tmp_path / "bavard.safetensors", file)
    shelf = shelf_of(base)
    shelf.add("bavard", tmp_path / "bavard.safetensors")
    body = {"messages": [{"role": "user", "content": "oui"}], "max_tokens": 2}
    with running(base) as engine, client_of(replace(make_context(engine), shelf=shelf)) as client:
        assert client.post(CHAT, json={"model": "bavard", **body}).status_code == 200
        assert check_envelope(client.post(CHAT, json=body), 400)["code"] == "no_chat_template"


def test_options_name_each_adapter():
    found = named_paths("adapter", ("a=x/y", "b=c=d"))
    assert {name: str(path) for name, path in found.items()} == {"a": "x/y", "b": "c=d"}
    for wrong in (("a",), ("=x",), ("a=",), ("a=x", "a=y")):
        with pytest.raises(ConfigurationError, match="NOM=CHEMIN"):
            named_paths("adapter", wrong)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build(tmp_path_factory.mktemp("adaptateurs"))


@pytest.fixture(scope="module")
def adapters(path):
    content, found = read_model(path), {}
    model = content.build()
    for seed in (1, 2):
        file = an_adapter(model, seed, base_sha256=weights_sha256(content))
        found[f"a{seed}"] = path.with_name(f"a{seed}.safetensors")
        save_adapter(found[f"a{seed}"], file)
    return found


@pytest.mark.slow
class TestServed:
    """Par `serve` : le fichier d'un modèle, les noyaux, les reçus."""

    @pytest.mark.parametrize("kind", ["fp32", "int8"])
    def test_a_receipt_says_which_one_answered(self, path, adapters, kind):
        """Il se rejoue avec lui ; sans lui, avec un autre ou sur le modèle seul, il le dit."""
        body = {"prompt": "Le passeur", "max_tokens": 10, "seed": 3, "receipt": True}
        gpt = loaded(path, kind)
        with serve(gpt, name="base", adapters=adapters, api_keys=[KEY]) as service:
            plain = ask(service.url, COMPLETIONS, body)
            texts, receipt = ask(service.url, COMPLETIONS, body | {"model": "a1"})
            other = ask(service.url, COMPLETIONS, body | {"model": "a2"})
        assert texts != plain[0]
        assert len({each["system_fingerprint"] for each in (plain[1], receipt, other[1])}) == 3
        assert receipt["model"]["adapter"]["rank"] == 3
        assert receipt["model"]["sha256"] == plain[1]["model"]["sha256"]
        found = replay(receipt, gpt, adapter=adapters["a1"])
        assert (found.same, found.texts) == (True, texts)
        for model, adapter, told in (
            (receipt, None, "donnez-le aussi"),
            (receipt, adapters["a2"], "n'est pas celui du reçu"),
            (plain[1], adapters["a1"], "le modèle seul"),
        ):
            found = replay(model, gpt, adapter=adapter)
            assert [each.cause for each in found.differences] == ["adaptateur"]
            assert told in found.differences[0].message
            assert not found.texts

    def test_a_quantised_file_takes_them_too(self, path, adapters, tmp_path, caplog):
        """Elle n'a plus l'empreinte de ses poids d'origine : c'est dit, et les formes sont vues."""
        from gpt_architecture import quantize

        body = {"prompt": "Le passeur", "max_tokens": 8, "temperature": 0, "receipt": True}
        with serve(loaded(path, "int8"), adapters=adapters, api_keys=[KEY]) as service:
            expected = ask(service.url, COMPLETIONS, body | {"model": "a1"})
        quantize(path, scheme="int8", output=tmp_path / "m.safetensors", progress=False)
        with serve(tmp_path / "m.safetensors", adapters=adapters, api_keys=[KEY]) as service:
            found = ask(service.url, COMPLETIONS, body | {"model": "a1"})
        assert found[0] == expected[0]
        assert "seules les formes sont vérifiées" in caplog.text

    def test_the_wrong_file_is_said_at_launch(self, path, adapters, tmp_path):
        (tmp_path / "vide").mkdir()
        save_adapter(tmp_path / "autre.safetensors", an_adapter(small_model(), 1))
        gpt = loaded(path, "fp32")
        for wrong, error in (
            ({"a": tmp_path / "absent"}, ModelFileError),
            ({"a": tmp_path / "vide"}, ModelFileError),
            ({"a": tmp_path / "autre.safetensors"}, ModelFileError),
            ({"base": adapters["a1"]}, ConfigurationError),
        ):
            with pytest.raises(error):
                serve(gpt, name="base", adapters=wrong)
        with pytest.raises(ConfigurationError, match="n'est pas un dossier"):
            serve(gpt, adapters_dir=tmp_path / "absent")
        with pytest.raises(ConfigurationError, match="rang 3"):
            serve(gpt, adapters=adapters, max_adapter_rank=2)
