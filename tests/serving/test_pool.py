"""Plusieurs modèles dans un service : chargés à la demande, rendus au plus ancien emploi."""

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest
from decoding_helpers import sharp_model
from http_helpers import (
    CHAT_TEMPLATE,
    NAME,
    WINDOW,
    Letters,
    check_envelope,
    client_of,
    make_context,
)
from http_helpers import running_engine as running
from receipt_helpers import build

from gpt_architecture import serve
from gpt_architecture.api.engines import file_mark, serving_bytes
from gpt_architecture.cli.options import gigabytes
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.serving import pool as pool_module
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.http.access import Exchange, entered
from gpt_architecture.serving.pool import Lodger, ModelPool

COMPLETIONS = "/v1/completions"
BODY = {"prompt": "bonjour, le", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
SIZES = {"a": 40, "b": 40, "c": 70}


class Shop:
    """De quoi charger de petits modèles, et compter ce qui l'a été."""

    def __init__(self, sizes=SIZES):
        self.sizes, self.loads, self.broken = sizes, [], set()
        self.engines, self.reads = {}, []

    def mark(self, name):
        return name in self.broken

    def measure(self, name):
        self.reads.append(name)
        if name in self.broken:
            raise ModelFileError(f"{name} est abîmé", expected="un modèle", remedy="changez-le")
        return Lodger(size=self.sizes[name], window=WINDOW)

    def load(self, name):
        self.measure(name)
        self.loads.append(name)
        engine = Engine(sharp_model(ord(name), context_length=WINDOW), Letters(), slots=2)
        engine.start()
        engine.wait_started()
        self.engines[name] = weakref.ref(engine)
        return replace(make_context(engine), name=name, model=engine._model)

    def pool(self, **options):
        return ModelPool(self.sizes, self.measure, self.load, mark=self.mark, **options)


@pytest.fixture
def shop():
    return Shop()


def served(pool, **options):
    """Un client du service dont le premier modèle est le petit, et les autres dans `pool`."""
    return client_of(create_app(make_context(options.pop("engine")), pool=pool, **options))


def text_of(client, name):
    answer = client.post(COMPLETIONS, json=BODY | {"model": name})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def states(client):
    return {each["id"]: each["state"] for each in client.get("/v1/models").json()["data"]}


def test_each_answers_under_its_name(shop):
    """Chargé à la première demande ; le texte est celui du modèle servi seul."""
    pool = shop.pool()
    with running() as engine, served(pool, engine=engine) as client:
        assert states(client) == {NAME: "loaded", "a": "idle", "b": "idle", "c": "idle"}
        texts = {name: text_of(client, name) for name in (NAME, "a", "b", "a")}
        assert shop.loads == ["a", "b"]
        assert states(client) == {NAME: "loaded", "a": "loaded", "b": "loaded", "c": "idle"}
        assert client.get("/health").json()["models"] == states(client)
        metrics = client.get("/metrics").text
        for line in ('loaded{model_name="a"} 1.0', 'loaded{model_name="c"} 0.0'):
            assert f"gpt_architecture_model_{line}" in metrics
        assert 'vllm:request_success_total{finished_reason="length",model_name="a"} 2.0' in metrics
        card = dict(client.get("/studio/api/info").json()["card"])
        assert card["autres modèles"] == "a (chargé), b (chargé), c (à charger)"
        one = client.get("/v1/models/c").json()
        assert (one["id"], one["max_model_len"], one["parent"]) == ("c", WINDOW, None)
        error = check_envelope(client.post(COMPLETIONS, json=BODY | {"model": "d"}), 404)
        assert f"« {NAME} », « a », « b », « c »" in error["message"]
    pool.close()
    assert len({*texts.values()}) == 3
    for name in "ab":
        model = sharp_model(ord(name), context_length=WINDOW)
        with running(model) as engine, client_of(make_context(engine)) as client:
            assert text_of(client, NAME) == texts[name]


def test_the_one_used_longest_ago_leaves(shop):
    """La mémoire reste sous la borne, le modèle de départ compris ; rendu, il est libéré."""
    pool = shop.pool(resident=20, limit=100)
    with running() as engine, served(pool, engine=engine) as client:
        first = text_of(client, "a")
        text_of(client, "b")
        text_of(client, "a")
        text_of(client, "c")  # ni a ni b ne tiennent à côté
        assert states(client) == {NAME: "loaded", "a": "idle", "b": "idle", "c": "loaded"}
        gc.collect()
        assert shop.engines["a"]() is None
        assert 'engine_ready{model_name="a"}' not in client.get("/metrics").text
        text_of(client, "b")
        assert text_of(client, "a") == first
        assert states(client) == {NAME: "loaded", "a": "loaded", "b": "loaded", "c": "idle"}
        text_of(client, NAME)
        text_of(client, "b")
        text_of(client, "c")
        assert shop.loads == ["a", "b", "c", "b", "a", "c"]
    pool.close()


def test_one_that_answers_never_leaves(shop):
    """Tant qu'une requête n'est pas finie, son modèle reste ; qui n'a pas la place réessaiera."""
    pool = shop.pool(resident=20, limit=100)

    async def scenario():
        with entered(Exchange()) as first:
            context = await pool.open("a")
        with entered(Exchange()), pytest.raises(ApiError) as refused:
            await pool.open("c")
        assert (refused.value.status, refused.value.code) == (503, "models_busy")
        assert context.engine.state == "ready"
        with entered(Exchange()) as second:
            await pool.open("b")
        for exchange in (second, first):
            for act in exchange.at_end:
                act()
        with entered(Exchange()):
            together = await asyncio.gather(*(pool.open("c") for _ in range(3)))
        assert len({id(each) for each in together}) == 1

    asyncio.run(scenario())
    assert shop.loads == ["a", "b", "c"]
    pool.close()


def test_a_request_releases_its_model_when_its_stream_ends(shop):
    pool = shop.pool(resident=20, limit=100)
    with running() as engine, served(pool, engine=engine) as client:
        answer = client.post(COMPLETIONS, json=BODY | {"model": "a", "stream": True})
        assert "data: [DONE]" in answer.text
        assert client.post(COMPLETIONS, json=BODY | {"model": "a", "n": -1}).status_code == 400
        text_of(client, "c")
        assert states(client)["a"] == "idle"
    pool.close()


def test_one_whose_engine_died_is_loaded_again(shop):
    """Un moteur mort ne répondrait plus jamais : la demande suivante recharge son modèle."""
    pool = shop.pool()
    with running() as engine, served(pool, engine=engine) as client:
        first = text_of(client, "a")
        shop.engines["a"]().stop()
        assert text_of(client, "a") == first
        assert shop.loads == ["a", "a"]
    pool.close()


def test_every_route_answers_under_its_name(shop):
    """Écrire sous chaque forme, donner des vecteurs, couper un texte : par le modèle demandé."""
    pool = shop.pool()
    message = [{"role": "user", "content": "oui"}]
    bodies = {
        "/v1/chat/completions": {"messages": message, "max_tokens": 2},
        "/v1/responses": {"input": "oui", "max_output_tokens": 2},
        "/v1/messages": {"messages": message, "max_tokens": 2},
        "/v1/embeddings": {"input": "oui"},
    }
    with running() as engine, served(pool, engine=engine) as client:
        text_of(client, "a")
        pool._loaded["a"] = replace(pool.loaded["a"], metadata={"chat_template": CHAT_TEMPLATE})
        for route, body in bodies.items():
            answer = client.post(route, json=body | {"model": "a"})
            assert answer.status_code == 200, (route, answer.text)
            assert answer.json()["model"] == "a"
        counted = {"messages": message, "model": "a"}
        assert client.post("/v1/messages/count_tokens", json=counted).status_code == 200
        assert client.post("/tokenize", json={"prompt": "oui", "model": "a"}).status_code == 200
    assert shop.loads == ["a"]
    pool.close()


def test_one_that_cannot_be_read_leaves_the_others_alone(shop, caplog):
    """Au lancement ou plus tard ; réparé, il sert à la demande suivante."""
    shop.broken.add("b")
    pool = shop.pool(limit=100)
    assert "« b » ne se charge pas : b est abîmé" in caplog.text
    with running() as engine, served(pool, engine=engine) as client:
        shop.broken.add("a")
        for name in "ab":
            error = check_envelope(client.post(COMPLETIONS, json=BODY | {"model": name}), 503)
            assert error["code"] == "model_not_loaded"
            assert "abîmé" not in error["message"]  # le journal seul le dit
        assert states(client) == {NAME: "loaded", "a": "failed", "b": "failed", "c": "idle"}
        cards = client.get("/v1/models").json()["data"]
        windows = {each["id"]: each["max_model_len"] for each in cards}
        assert windows == {NAME: WINDOW, "a": WINDOW, "b": None, "c": WINDOW}  # b : jamais lu
        text_of(client, "c")
        shop.broken.clear()
        assert text_of(client, "b")
        assert states(client)["b"] == "loaded"
    pool.close()


def test_one_that_failed_is_not_read_at_each_request(shop, monkeypatch):
    """Il n'est relu que si son fichier a changé, ou au bout d'un moment."""
    shop.broken.add("a")
    pool = shop.pool()
    with running() as engine, served(pool, engine=engine) as client:
        shop.reads.clear()
        for _ in range(3):
            error = check_envelope(client.post(COMPLETIONS, json=BODY | {"model": "a"}), 503)
            assert error["code"] == "model_not_loaded"
        assert shop.reads == []
        monkeypatch.setattr(pool_module, "RETRY_S", 0.0)
        check_envelope(client.post(COMPLETIONS, json=BODY | {"model": "a"}), 503)
        assert shop.reads == ["a"]
        monkeypatch.undo()
        shop.broken.clear()
        shop.sizes = {**shop.sizes, "a": 45}
        text_of(client, "a")
        assert pool.lodgers["a"].size == 45  # réparé, il a pu changer de taille
    pool.close()


def test_a_known_failure_does_not_wait_for_another_to_load(shop):
    """Un gros modèle qui se charge retient ceux qui attendent leur tour, et non ce refus."""
    shop.broken.add("a")
    pool = shop.pool()

    async def scenario():
        async with pool._turn:
            with entered(Exchange()), pytest.raises(ApiError) as refused:
                await asyncio.wait_for(pool.open("a"), 10)
        assert refused.value.code == "model_not_loaded"

    asyncio.run(scenario())


def test_a_file_that_changed_has_another_mark(tmp_path):
    assert file_mark(tmp_path / "absent") == ()
    path = tmp_path / "m.pt"
    path.write_bytes(b"un")
    marks = [file_mark(path), file_mark(tmp_path)]
    assert file_mark(path) == marks[0]
    path.write_bytes(b"deux")
    assert file_mark(path) != marks[0]
    assert file_mark(tmp_path) != marks[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("4", 4.0), ("0.5", 0.5), ("500M", 0.5), ("2Go", 2.0), ("1 T", 1000.0)),
        *(("512Mi", 512 * 2**20 / 1e9), ("1.5GiB", 1.5 * 2**30 / 1e9)),
    ],
)
def test_a_memory_has_a_unit(text, expected):
    assert gigabytes("max_memory", text) == expected


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1,5G", "4i", "4o", "512 B", "nan", "1e9", "500Q", "0M", "9" * 400]
)
def test_a_wrong_memory_is_refused(text):
    with pytest.raises(ConfigurationError, match="max_memory"):
        gigabytes("max_memory", text)


def test_one_that_never_fits_is_refused_at_launch(shop):
    with pytest.raises(ConfigurationError, match=r"« c » prend.*max_memory"):
        shop.pool(resident=40, limit=100)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build(tmp_path_factory.mktemp("modeles"))


@pytest.mark.slow
class TestServed:
    """Par `serve`, avec de vrais fichiers."""

    def test_files_are_served_together(self, path, tmp_path):
        from http_helpers import HTTP

        (tmp_path / "abime.pt").write_bytes(b"rien")
        others = {"autre": path, "abime": tmp_path / "abime.pt"}
        size, window = serving_bytes(path)
        assert window == 256
        with serve(path, name="un", models=others, max_memory=2.1 * size / 1e9) as service:
            texts = [
                HTTP.post(
                    service.api_url + "/completions",
                    json={"model": name, "prompt": "Le passeur", "max_tokens": 5, "temperature": 0},
                )
                for name in ("un", "autre", "abime", "un")
            ]
        assert [each.status_code for each in texts] == [200, 200, 503, 200]
        found = [each.json()["choices"] for each in texts if each.status_code == 200]
        assert found[0] == found[1] == found[2]
        with pytest.raises(ConfigurationError, match="au plus ensemble"):
            serve(path, name="un", models=others, max_memory=1.5 * size / 1e9)
        with pytest.raises(ConfigurationError, match="deux modèles se nomment"):
            serve(path, name="autre", models=others)

    def test_the_estimate_counts_weights_and_slots(self, path):
        """Deux fois plus d'emplacements, deux fois plus de clés et de valeurs ; à la main."""
        one, two = (serving_bytes(path, slots=slots)[0] for slots in (1, 2))
        assert two - one == 2 * 2 * 32 * 256 * 4  # 2 couches, largeur 32, contexte 256
        plain, light = (serving_bytes(path, quant=each, drafts=0)[0] for each in (None, "int8"))
        assert 0 < light < plain
