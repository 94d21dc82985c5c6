"""Chargé par chaque processus de test (PYTHONPATH) : aucune connexion hors de la machine."""

import socket

_connect = socket.socket.connect


def _is_local(sock, address):
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return address[0] in ("127.0.0.1", "::1", "localhost")


def _guarded_connect(self, address):
    if not _is_local(self, address):
        raise OSError(f"réseau interdit pendant les tests : {address}")
    return _connect(self, address)


def _guarded_getaddrinfo(host, *arguments, **options):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        raise socket.gaierror(f"réseau interdit pendant les tests : {host}")
    return _getaddrinfo(host, *arguments, **options)


_getaddrinfo = socket.getaddrinfo
socket.socket.connect = _guarded_connect
socket.getaddrinfo = _guarded_getaddrinfo
