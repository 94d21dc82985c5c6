"""Servir depuis Python : un fil, un port libre, un arrêt propre."""

import os
import signal
import socket
import threading
import time
from dataclasses import replace

import pytest
import torch
from http_helpers import HTTP, wait_until
from page_helpers import read_cell
from trace_helpers import Collector

from gpt_architecture import load, serve
from gpt_architecture.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFileError,
    ServiceError,
)

LEFT = {"service", "moteur"}
"""Fils qu'un service ne laisse pas derrière lui."""


@pytest.fixture
def gpt(trained):
    return load(trained / "gpt-model.pt")


def threads():
    return {each.name for each in threading.enumerate()} & LEFT


def complete(service, **body):
    return HTTP.post(
        f"{service.api_url}/completions",
        json={"model": service.name, "prompt": "La lampe", "max_tokens": 4, "temperature": 0}
        | body,
    )


@pytest.mark.slow
class TestServe:
    def test_it_answers_then_leaves_nothing(self, gpt):
        before = {each.ident for each in threading.enumerate()}
        with serve(gpt, name="essai") as service:
            answer = complete(service).json()
            assert "La lampe" + answer["choices"][0]["text"] == gpt.generate(
                "La lampe", max_tokens=4
            )
            assert HTTP.get(service.studio_url, follow_redirects=True).status_code == 200
            assert service.is_running
            assert threads() == LEFT
            port = int(service.url.rpartition(":")[2])
        assert not service.is_running
        assert threads() == set()
        wait_until(lambda: {each.ident for each in threading.enumerate()} <= before)
        with socket.socket() as again:  # le port est rendu
            again.bind(("127.0.0.1", port))
        service.stop()  # sans effet

    def test_it_gives_the_vectors_of_the_model(self, gpt):
        """Les mêmes par le service et en Python ; un collecteur reçoit le span de la requête."""
        texts = ["La lampe", "Un soir"]
        with Collector() as collector:
            with serve(gpt, name="essai", otlp=collector.url) as service:
                answer = HTTP.post(f"{service.api_url}/embeddings", json={"input": texts}).json()
            assert [span.name for _, span in collector.spans] == ["embeddings essai"]
        found = torch.tensor([each["embedding"] for each in answer["data"]])
        assert torch.equal(found, gpt.embed(texts))
        assert torch.equal(gpt.embed(texts[0]), gpt.embed(texts)[0])
        with pytest.raises(ConfigurationError, match="vide"):
            gpt.embed([""])
        with pytest.raises(ConfigurationError, match="otlp"):
            serve(gpt, otlp="localhost:4318")

    def test_a_path_and_its_model_have_one_name(self, trained):
        with serve(trained) as service:
            assert service.name == "gpt-model"
        with serve(load(trained)) as loaded:  # le même nom, chargé d'avance
            assert loaded.name == service.name

    def test_a_key(self, trained):
        with serve(trained, api_keys=["une-cle-d-essai-assez-longue"]) as service:
            assert complete(service).status_code == 401
            headers = {"Authorization": "Bearer une-cle-d-essai-assez-longue"}
            assert HTTP.get(f"{service.api_url}/models", headers=headers).status_code == 200

    def test_the_notebook_still_writes_meanwhile(self, gpt):
        """Le même modèle sert et écrit, chacun dans son fil."""
        expected = gpt.generate("La lampe", max_tokens=8)
        with serve(gpt) as service:
            texts = []
            asking = threading.Thread(
                target=lambda: [texts.append(complete(service, max_tokens=8)) for _ in range(5)]
            )
            asking.start()
            ours = [gpt.generate("La lampe", max_tokens=8) for _ in range(5)]
            asking.join()
        assert set(ours) == {expected}
        assert {"La lampe" + each.json()["choices"][0]["text"] for each in texts} == {expected}

    def test_two_services(self, gpt):
        with serve(gpt) as one, serve(gpt) as other:
            assert one.url != other.url
            assert complete(one).json()["choices"] == complete(other).json()["choices"]

    def test_in_the_foreground_it_waits(self, gpt, monkeypatch):
        started = []
        from gpt_architecture.api import service as module

        class Watched(module.Service):
            def wait(self):
                started.append(self)
                threading.Timer(0.2, self.stop).start()
                super().wait()

        monkeypatch.setattr(module, "Service", Watched)
        begin = time.monotonic()
        found = serve(gpt, background=False)
        assert time.monotonic() - begin >= 0.2
        assert found is started[0]
        assert not found.is_running

    def test_ctrl_c_lets_the_running_answer_end(self, gpt):
        """Interrompu, le service de premier plan finit de répondre, puis rend tout."""
        answers, model = [], gpt.generator.model

        class Slow:
            """Un modèle qui prend son temps : la requête dure encore quand Ctrl-C arrive."""

            def __getattr__(self, name):
                return getattr(model, name)

            def __call__(self, *arguments, **options):
                time.sleep(0.1)
                return model(*arguments, **options)

        def ask():
            wait_until(lambda: found)
            wait_until(lambda: found[0].is_running)
            client = threading.Thread(
                target=lambda: answers.append(complete(found[0], max_tokens=10))
            )
            client.start()
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            client.join()

        found = []
        asking = threading.Thread(target=ask)
        asking.start()
        with serve(replace(gpt, runner=Slow())) as service:
            found.append(service)
            service.wait()
        asking.join()
        assert [each.status_code for each in answers] == [200]
        expected = gpt.generate("La lampe", max_tokens=10)
        assert "La lampe" + answers[0].json()["choices"][0]["text"] == expected
        assert not service.is_running
        assert threads() == set()

    def test_card(self, gpt):
        with serve(gpt, name="<b>essai</b>") as service:
            reader = read_cell(service._repr_html_(), links=(service.studio_url,))
            assert "<b>essai</b>" in reader.text
            assert service.url in repr(service)
        reader = read_cell(service._repr_html_())
        assert "arrêté" in reader.text


def test_a_busy_port(gpt):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=rf"port {port} : adresse déjà.*`host` ou `port`"
        ):
            serve(gpt, port=port)
    assert threads() == set()


def test_refusals(gpt):
    with pytest.raises(ModelFileError, match=r"absent\.pt"):
        serve("absent.pt")
    with pytest.raises(ConfigurationError, match="`port` vaut 70000"):
        serve(gpt, port=70_000)
    with pytest.raises(ConfigurationError, match="essayez `host`"):
        serve(gpt, hosts="::1")
    with pytest.raises(ConfigurationError, match="déjà chargé"):
        serve(gpt, quant="int8")
    assert threads() == set()


def test_a_model_that_does_not_compute(gpt):
    def broken(*_args, **_settings):
        raise RuntimeError("essai")

    broken.cfg, broken.device = gpt.config, gpt.device
    broken.new_cache = gpt.model.new_cache
    with pytest.raises(ServiceError, match="premier passage"):
        serve(replace(gpt, model=broken, runner=None))
    assert threads() == set()


def test_without_its_libraries(gpt, monkeypatch):
    from gpt_architecture.api import service

    monkeypatch.setattr(service, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="fastapi"):
        serve(gpt)
