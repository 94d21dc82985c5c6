"""Un modèle servi depuis Python, dans un thread, et arrêté proprement."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.engines import (
    MAX_ADAPTER_RANK,
    MAX_ADAPTERS,
    other_models,
    start_engine,
)
from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import held, loaded, source_of
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.config import check_float, check_int
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import MissingDependencyError, ServiceError
from gpt_architecture.formats.door import check_source, locate, short_name
from gpt_architecture.storage import exists

if TYPE_CHECKING:
    import socket

    from gpt_architecture.api.runs import Run
    from gpt_architecture.api.sources import SourceIndex
    from gpt_architecture.serving.engine.engine import Engine
    from gpt_architecture.serving.http.observer import Observer
    from gpt_architecture.serving.http.server import HttpServer
    from gpt_architecture.serving.pool import ModelPool

logger = logging.getLogger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
"""Adresses que cette machine seule atteint."""

_POLL_S = 0.01


def check_serving() -> None:
    """Dit ce qui manque pour servir, avant d'ouvrir quoi que ce soit.

    Raises:
        MissingDependencyError: une bibliothèque n'est pas installée.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            name = package.replace("_", "-")
            raise MissingDependencyError(name, purpose="servir un modèle", extra="serve")


class Service:
    """Un modèle servi ; `serve` le construit, `stop` ou la fin d'un `with` l'arrête.

    Attributes:
        name: nom du modèle pour les clients.
        url: son adresse.
        error: ce qui l'a arrêté sans qu'on le demande ; None : rien.
    """

    def __init__(
        self,
        server: HttpServer,
        listener: socket.socket,
        engine: Engine,
        name: str,
        observer: Observer,
        pool: ModelPool | None = None,
    ) -> None:
        from gpt_architecture.serving.http.server import url_of

        self.name, self.url = name, url_of(listener)
        self.error: BaseException | None = None
        self._server, self._listener, self._observer = server, listener, observer
        self._engine, self._pool = engine, pool
        self._closing, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="service", daemon=True)
        self._thread.start()
        while not server.started and self.is_running:
            time.sleep(_POLL_S)

    @property
    def api_url(self) -> str:
        """L'adresse à donner à un client d'OpenAI."""
        return f"{self.url}/v1"

    @property
    def studio_url(self) -> str:
        """L'adresse du studio, à ouvrir dans un navigateur."""
        return f"{self.url}/studio"

    @property
    def is_running(self) -> bool:
        """Vrai tant qu'il répond."""
        return not self._done.is_set()

    def stop(self) -> None:
        """N'accepte plus rien, laisse finir les requêtes, puis rend le port et les threads.

        Sans effet sur un service déjà arrêté.
        """
        with self._closing:
            self._server.request_stop()
            self._done.wait()
            self._thread.join()
            self._engine.drain(1.0)  # il ne reste que des textes abandonnés
            self._engine.stop()
            if self._pool is not None:
                self._pool.close()
            self._listener.close()
            self._observer.close()

    def wait(self) -> None:
        """Attend qu'on l'arrête : Ctrl-C, ou l'arrêt du noyau d'un carnet.

        Par un signal, et non par `Thread.join` : interrompu, celui de Python 3.11 tient pour fini
        un thread qui répond encore.
        """
        try:
            while not self._done.wait(0.5):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def _serve(self) -> None:
        try:
            self._server.serve_until_stopped(self._listener)
        except BaseException as error:
            self.error = error
            logger.error("le service s'est arrêté : %s", error)
        finally:
            self._done.set()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "en marche" if self.is_running else "arrêté"
        return f"Service({self.name}, {state}, {self.url})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        running = self.is_running
        state = "en marche" if running else "arrêté"
        facts = [("modèle", self.name), ("état", state), ("clients d'OpenAI", self.api_url)]
        link = self.studio_url if running else None
        return facts_cell("Service", facts, link=link, notes=["Pour l'arrêter : service.stop()."])


@checked_options
def serve(
    model: GPT | Run | Path | str | None = None,
    *,
    background: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    api_keys: Sequence[str] = (),
    allow_origin: Sequence[str] = (),
    strict: bool = False,
    slots: int = 8,
    max_waiting: int = 64,
    max_tokens: int = 4096,
    timeout: float = 600.0,
    drain_timeout: float = 60.0,
    name: str | None = None,
    run_directory: Path | str | None = None,
    index: SourceIndex | Path | str | None = None,
    device: str = "auto",
    quant: str | None = None,
    drafts: int = MAX_SELF_DRAFT,
    sign_key: Path | str | None = None,
    otlp: str | None = None,
    adapters: Mapping[str, Path | str] | None = None,
    adapters_dir: Path | str | None = None,
    max_adapters: int = MAX_ADAPTERS,
    max_adapter_rank: int = MAX_ADAPTER_RANK,
    models: Mapping[str, Path | str] | None = None,
    max_memory: float | None = None,
) -> Service:
    """Sert un modèle à tout client d'OpenAI, comme `gpt-architecture serve`, avec son studio.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        background: rend la main aussitôt ; sinon, à l'arrêt (Ctrl-C).
        host: adresse où écouter ; cette machine seule y a accès, sans autre choix.
        port: port ; 0 en choisit un libre.
        api_keys: clés d'accès ; vide : tout le monde est accepté.
        allow_origin: pages web d'ailleurs qui peuvent appeler le service (CORS).
        strict: refuse les champs qu'aucune interface d'OpenAI ne connaît.
        slots: textes générés ensemble.
        max_waiting: textes qui attendent un emplacement, au plus.
        max_tokens: tokens qu'un texte peut demander, au plus.
        timeout: secondes laissées à une requête.
        drain_timeout: secondes laissées, à l'arrêt, aux requêtes en cours.
        name: nom du modèle pour les clients ; None : celui de son fichier.
        run_directory: dossier d'entraînement à montrer dans le studio.
        index: index des données d'entraînement (voir `index_sources`), ou son dossier : le service
            en montrera des passages à qui a le droit de l'appeler ; None : il n'en montre rien.
        device: voir `load`.
        quant: voir `load`.
        drafts: tokens proposés d'avance, à faible charge ; le texte reste le même.
        sign_key: clé privée Ed25519 (PEM) qui signe les reçus ; None : aucune.
        otlp: collecteur OpenTelemetry (OTLP sur HTTP) à qui remettre un span par requête ; None :
            celui que nomme `OTEL_EXPORTER_OTLP_ENDPOINT`, s'il y en a un.
        adapters: affinages du modèle, par nom : une requête en choisit un par `model`.
        adapters_dir: dossier où une requête qui a une clé peut en ajouter ; None : aucun.
        max_adapters: adaptateurs en mémoire, au plus.
        max_adapter_rank: rang de chacun, au plus.
        models: autres modèles, par nom, chargés à la première requête qui en demande un.
        max_memory: milliards d'octets que tous prennent, au plus : au-delà, le plus anciennement
            employé est rendu ; None : pas de borne.

    Raises:
        ConfigurationError: port pris ou adresse inconnue, réglage hors bornes, mauvaise clé, ou
            index d'un autre tokenizer.
        DataError: l'index ne convient pas.
        MissingDependencyError: les bibliothèques du service, ou des traces, ne sont pas installées.
        ModelFileError: voir `load`.
        ServiceError: le modèle ne calcule pas.

    Examples:
        >>> from gpt_architecture import load, serve
        >>> with serve(load("modele"), name="essai") as service:
        ...     service.is_running, service.api_url == service.url + "/v1"
        (True, True)
        >>> service.is_running
        False
    """
    check_serving()
    from gpt_architecture.serving.app import create_app
    from gpt_architecture.serving.http.access import KeyRing, check_origin
    from gpt_architecture.serving.http.observer import Observer
    from gpt_architecture.serving.http.server import HttpServer, bind
    from gpt_architecture.serving.http.tracing import tracing_to
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

    keys, origins = KeyRing(listed(api_keys)), listed(allow_origin)
    check_int("`port`", port, minimum=0, maximum=65_535)
    check_int("`slots`", slots, minimum=1, maximum=1024)
    check_int("`max_waiting`", max_waiting, minimum=1, maximum=100_000)
    check_int("`max_tokens`", max_tokens, minimum=1)
    check_float("`timeout`", timeout, above=0.0, maximum=86_400.0)
    check_float("`drain_timeout`", drain_timeout, above=0.0, maximum=86_400.0)
    for origin in origins:
        check_origin("`allow_origin`", origin)
    if not api_keys and host not in LOCAL_HOSTS:
        logger.warning("le service écoute sur %s sans clé d'accès ; donnez `api_keys`.", host)
    limits = Limits(
        max_tokens=max_tokens,
        request_seconds=timeout,
        sequences=min(Limits.sequences, max_waiting),
    )
    served, own_name = _served(model, device=device, quant=quant)
    name = name or own_name
    observer = Observer(tracing=tracing_to(otlp))
    with ExitStack() as undo:  # ce qui échoue ne laisse ni port ni thread
        undo.callback(observer.close)
        listener = bind(host, port)
        undo.callback(listener.close)
        common: dict[str, Any] = {
            "limits": limits,
            "fields": FieldPolicy(strict=strict),
            "slots": slots,
            "max_waiting": max_waiting,
            "drafts": drafts,
            "device": device,
            "quant": quant,
            "sign_key": sign_key,
        }
        pool = other_models(models, name, served, max_memory=max_memory, **common)
        engine, context = start_engine(
            served,
            name=name,
            run_directory=run_directory,
            index=index,
            taken=models or (),
            adapters=adapters,
            adapters_dir=adapters_dir,
            max_adapters=max_adapters,
            max_adapter_rank=max_adapter_rank,
            **common,
        )
        undo.callback(engine.stop)
        app = create_app(context, keys=keys, origins=origins, observer=observer, pool=pool)
        engine.wait_started()
        if engine.state != "ready":
            raise ServiceError(
                "le premier passage du modèle a échoué",
                expected="un modèle qui calcule",
                remedy="essayez `gpt.generate` : l'erreur y est dite",
            )
        server = HttpServer(app, limits=limits, drain_seconds=drain_timeout, observer=observer)
        service = Service(server, listener, engine, name, observer, pool)
        if service.error is not None:
            raise ServiceError(
                "le service s'est arrêté aussitôt",
                expected="un port où répondre",
                remedy="voyez son journal",
            ) from service.error
        undo.pop_all()
    if not background:
        service.wait()
    return service


def _served(model: object, *, device: str, quant: str | None) -> tuple[GPT | Path, str]:
    """Ce qui est servi, déjà chargé ou à charger, et son nom : le même dans les deux cas."""
    gpt = held(model)
    if gpt is None:
        source = source_of(model)
        path = check_source(source)
        return path, short_name(source, path)
    loaded(gpt, device=device, quant=quant)  # refuse ce qui ne vaut qu'au chargement
    found = locate(gpt.name) if gpt.name and exists(gpt.name) else gpt.name
    return gpt, short_name(gpt.name, found) if found else "modele"
