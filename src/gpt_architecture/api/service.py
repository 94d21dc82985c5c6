"""Un modèle servi depuis Python, dans un thread, et arrêté proprement."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import held, load, loaded, runner_of, source_of
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.config import VERSION, check_float, check_int
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizers.marked_text import own_prompt
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.errors import MissingDependencyError, ServiceError
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.comparison import SIX_VARIANTS
from gpt_architecture.formats.door import check_source, locate, short_name
from gpt_architecture.storage import exists

if TYPE_CHECKING:
    import socket

    from gpt_architecture.api.runs import Run
    from gpt_architecture.serving.context import ServingContext
    from gpt_architecture.serving.engine.engine import Engine
    from gpt_architecture.serving.http.server import HttpServer
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

logger = logging.getLogger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")
"""Adresses que cette machine seule atteint."""

_EXAMPLE = "Il était une fois"
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


def start_engine(
    model: GPT | Path | str,
    *,
    name: str,
    limits: Limits,
    fields: FieldPolicy,
    slots: int = 8,
    max_waiting: int = 64,
    drafts: int = MAX_SELF_DRAFT,
    run_directory: Path | str | None = None,
    device: str = "auto",
    quant: str | None = None,
) -> tuple[Engine, ServingContext]:
    """Le moteur d'un modèle, démarré, et ce que l'application en sert.

    Args:
        model: le modèle, ou son fichier.
        name: nom du modèle pour les clients.
        limits: ce qu'une requête peut demander.
        fields: ce qui est fait des champs inconnus.
        slots: textes générés ensemble.
        max_waiting: textes qui attendent, au plus.
        drafts: tokens proposés d'avance, à faible charge.
        run_directory: dossier d'entraînement que le studio montre.
        device: voir `load`.
        quant: voir `load`.
    """
    from gpt_architecture.serving.context import ServingContext, digest_of
    from gpt_architecture.serving.engine.engine import Engine

    hashing, digest = ThreadPoolExecutor(1), None  # l'empreinte, pendant que le reste se charge
    # Seuls les noyaux rendent les mêmes bits sous toute charge : un petit modèle les a aussi.
    if isinstance(model, GPT):
        gpt, runner = model, model.runner
        if runner is None and isinstance(model.model, GPTModel):
            runner = runner_of(model.model, model.device, None, "auto")
    else:
        digest = hashing.submit(digest_of, model)
        hashing.shutdown(wait=False)
        gpt = load(model, device=device, quant=quant, compile_from=0)
        runner = gpt.runner
    runner = gpt.model if runner is None else runner
    engine = Engine(
        runner,
        gpt.tokenizer,
        window=gpt.window,
        slots=slots,
        max_waiting=max_waiting,
        drafts=drafts,
    )
    engine.start()
    try:
        engine.prepare_constraints()
        found = None if digest is None else digest.result()
    except BaseException:
        engine.stop()
        raise
    context = ServingContext(
        engine=engine,
        model=runner,
        tokenizer=gpt.tokenizer,
        name=name,
        metadata=gpt.metadata,
        window=gpt.window,
        limits=limits,
        fields=fields,
        run_directory=None if run_directory is None else Path(run_directory),
        example=own_prompt(gpt.metadata) or _EXAMPLE,
        attention=partial(attention_of, gpt.model, window=gpt.window)
        if isinstance(gpt.model, GPTModel)
        else None,
        variants=tuple(SIX_VARIANTS),
        digest=found,
        version=VERSION,
    )
    return engine, context


class Service:
    """Un modèle servi ; `serve` le construit, `stop` ou la fin d'un `with` l'arrête.

    Attributes:
        name: nom du modèle pour les clients.
        url: son adresse.
        error: ce qui l'a arrêté sans qu'on le demande ; None : rien.
    """

    def __init__(
        self, server: HttpServer, listener: socket.socket, engine: Engine, name: str
    ) -> None:
        from gpt_architecture.serving.http.server import url_of

        self.name, self.url = name, url_of(listener)
        self.error: BaseException | None = None
        self._server, self._listener, self._engine = server, listener, engine
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
            self._listener.close()

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
    device: str = "auto",
    quant: str | None = None,
    drafts: int = MAX_SELF_DRAFT,
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
        device: voir `load`.
        quant: voir `load`.
        drafts: tokens proposés d'avance, à faible charge ; le texte reste le même.

    Raises:
        ConfigurationError: port pris ou adresse inconnue, ou réglage hors bornes.
        MissingDependencyError: les bibliothèques du service ne sont pas installées.
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
    from gpt_architecture.serving.http.server import HttpServer, bind
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
    with ExitStack() as undo:  # ce qui échoue ne laisse ni port ni thread
        listener = bind(host, port)
        undo.callback(listener.close)
        engine, context = start_engine(
            served,
            name=name,
            limits=limits,
            fields=FieldPolicy(strict=strict),
            slots=slots,
            max_waiting=max_waiting,
            drafts=drafts,
            run_directory=run_directory,
            device=device,
            quant=quant,
        )
        undo.callback(engine.stop)
        app = create_app(context, keys=keys, origins=origins)
        engine.wait_started()
        if engine.state != "ready":
            raise ServiceError(
                "le premier passage du modèle a échoué",
                expected="un modèle qui calcule",
                remedy="essayez `gpt.generate` : l'erreur y est dite",
            )
        server = HttpServer(app, limits=limits, drain_seconds=drain_timeout)
        service = Service(server, listener, engine, name)
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
