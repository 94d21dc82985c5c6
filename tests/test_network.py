"""Le réseau est bloqué pendant les tests, ici et dans les processus lancés."""

import socket
import sys
import urllib.request

import pytest
from cli_helpers import run_process


def test_connection_is_refused_here():
    """Une connexion sortante échoue sans rien envoyer."""
    with pytest.raises(OSError, match="réseau interdit"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="réseau interdit"):
        urllib.request.urlopen("https://example.org/", timeout=1)


def test_connection_is_refused_in_processes():
    """Un processus lancé par un test est bloqué aussi."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    outcome = run_process(sys.executable, "-c", code)
    assert outcome.code != 0
    assert "réseau interdit" in outcome.err


def test_loopback_stays_open():
    """La boucle locale reste permise : les tests y servent de faux téléchargements."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()
