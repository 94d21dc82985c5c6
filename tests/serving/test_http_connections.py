"""Les connexions du service, telles que le système les voit."""

import asyncio
import os
import signal
import socket

import pytest
from http_helpers import HTTP, ScriptedEngine, make_context, serving

from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.http.server import BoundedProtocol, HttpServer, bind
from gpt_architecture.serving.limits import Limits


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_listening_socket_says_its_protocol(host):
    """Sans lui, asyncio tient la prise pour autre chose que TCP."""
    with bind(host, 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.slow
def test_an_accepted_connection_sends_at_once(monkeypatch):
    """TCP_NODELAY : la fin d'une réponse n'attend pas l'accusé de réception de son début."""
    options = []
    usual = BoundedProtocol.connection_made

    def noted(self, transport):
        accepted = transport.get_extra_info("socket")
        options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        usual(self, transport)

    monkeypatch.setattr(BoundedProtocol, "connection_made", noted)
    with serving(create_app(make_context(ScriptedEngine()))) as url:
        assert HTTP.get(url + "/health").status_code == 200
    assert len(options) == 1
    assert options[0] != 0


def test_a_stop_asked_in_the_middle_of_a_line_writes_nothing_inside_it():
    """Le signal coupe le fil où qu'il soit ; ce qui se dit d'un arrêt attend la boucle."""
    said = []
    server = HttpServer(
        make_context(ScriptedEngine()),
        limits=Limits(),
        drain_seconds=1.0,
        on_drain=lambda: said.append("arrêt"),
    )

    async def interrupted_line():
        with server.capture_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            said.append("fin de la ligne")
            await asyncio.sleep(0.05)

    asyncio.run(interrupted_line())
    assert said == ["fin de la ligne", "arrêt"]
    assert server.should_exit
    assert server.signal == signal.SIGTERM
