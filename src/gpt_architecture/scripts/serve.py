"""`gpt-architecture serve` : un modèle derrière l'interface HTTP d'OpenAI."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 serve.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import gc
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import ENV_PREFIX, CommonOptions, find_model, say
from gpt_architecture.cli.logs import (
    LOGGER,
    JsonLines,
    LogFormat,
    TimedText,
    configure_logs,
    in_journal,
)
from gpt_architecture.cli.options import ModelSource, QuantName, gigabytes, named_paths
from gpt_architecture.config import check_float, check_int
from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.french import french_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp

    from gpt_architecture.serving.engine.engine import Engine
    from gpt_architecture.serving.http.access import KeyRing
    from gpt_architecture.serving.pool import ModelPool

logger = logging.getLogger("gpt_architecture.serve")  # `__name__` est `__main__` lancé par chemin

KEYS_VARIABLE = f"{ENV_PREFIX}API_KEYS"
_SWITCH_SECONDS = 0.0005  # 5 ms par défaut : dix fois de suite, une sonde attend 50 ms
_ALLOCATIONS = 10_000  # objets de plus que de libérés avant un passage du ramasse-miettes


@Parameter(name="*", group=Group("Réseau", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Où écouter, et qui peut parler."""

    host: Annotated[str, Parameter(metavar="ADRESSE")] = "127.0.0.1"
    """Adresse où écouter ; par défaut, cette machine seule y a accès."""

    port: int = 8000
    """Port ; 0 en choisit un libre."""

    api_key_file: Path | None = None
    """Fichier de clés d'accès, une par ligne (CLÉ, ou NOM CLÉ requests/min=N tokens/min=N), relu à
    SIGHUP ; ou la variable GPT_ARCHITECTURE_API_KEYS."""

    allow_origin: Annotated[tuple[str, ...], Parameter(metavar="ORIGINE…")] = ()
    """Origine d'une page web qui peut appeler le service (CORS) ; répétable."""

    log_requests: bool = False
    """Écrit une ligne par requête sur stderr, sans rien du texte traité."""

    otlp: Annotated[str | None, Parameter(metavar="URL")] = None
    """Collecteur OpenTelemetry (OTLP sur HTTP) à qui remettre un span par requête ; ou la variable
    OTEL_EXPORTER_OTLP_ENDPOINT."""

    sign_key: Path | None = None
    """Clé privée Ed25519 (PEM) qui signe les reçus des réponses ; elle n'est copiée nulle part."""

    strict: bool = False
    """Refuse les champs qu'aucune interface d'OpenAI ne connaît, au lieu de les ignorer."""

    def __post_init__(self) -> None:
        check_int("port", self.port, minimum=0, maximum=65_535)
        if self.allow_origin:
            from gpt_architecture.serving.http.access import check_origin

            for origin in self.allow_origin:
                check_origin("--allow-origin", origin)


@Parameter(name="*", group=Group("Moteur", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Comment le modèle calcule, et combien de textes il génère de front."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Quantifie les poids au chargement (CPU) : moins de mémoire lue, plus de tokens/s."""

    slots: int = 8
    """Emplacements : nombre de textes générés ensemble."""

    drafts: int = 5
    """Décodage spéculatif : nombre de tokens que le modèle propose lui-même, puis vérifie, à faible
    charge (poids fp32) ; 0 : aucun. Le texte reste le même."""

    max_waiting: int = 64
    """Nombre maximal de textes qui attendent un emplacement ; au-delà, la réponse est 429."""

    max_tokens: int = 4096
    """Nombre maximal de tokens qu'une requête peut demander pour un texte."""

    timeout: float = 600.0
    """Nombre de secondes laissées à une requête."""

    drain_timeout: float = 60.0
    """Nombre de secondes laissées aux requêtes en cours après un signal d'arrêt."""

    name: Annotated[str | None, Parameter(metavar="NOM")] = None
    """Nom du modèle pour les clients ; sans lui, celui de son fichier."""

    run_directory: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier d'entraînement à montrer dans le studio."""

    index: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Index des données d'entraînement : le studio et /v1/provenance en montreront des passages à
    qui peut appeler le service."""

    def __post_init__(self) -> None:
        check_int("slots", self.slots, minimum=1, maximum=1024)
        check_int("drafts", self.drafts, minimum=0, maximum=5)
        check_int("max_waiting", self.max_waiting, minimum=1, maximum=100_000)
        check_int("max_tokens", self.max_tokens, minimum=1)
        check_float("timeout", self.timeout, above=0.0, maximum=86_400.0)
        check_float("drain_timeout", self.drain_timeout, above=0.0, maximum=86_400.0)


@Parameter(name="*", group=Group("Adaptateurs et autres modèles", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Quels affinages du modèle, et quels autres modèles, une requête peut demander."""

    adapter: Annotated[tuple[str, ...], Parameter(metavar="NOM=CHEMIN")] = ()
    """Affinage par adaptateurs du modèle (d'ici ou de PEFT), qu'une requête choisit par « model » ;
    répétable."""

    adapters_dir: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier où une requête qui a une clé peut prendre d'autres adaptateurs, sans relancer."""

    max_adapters: int = 16
    """Nombre maximal d'adaptateurs en mémoire."""

    max_adapter_rank: int = 64
    """Rang maximal d'un adaptateur."""

    also: Annotated[tuple[str, ...], Parameter(metavar="NOM=CHEMIN")] = ()
    """Autre modèle, chargé quand une requête le demande par ce nom ; répétable."""

    max_memory: Annotated[str | None, Parameter(metavar="TAILLE")] = None
    """Mémoire que prennent tous les modèles, au plus (500M, 4G) ; au-delà, celui dont l'emploi est
    le plus ancien est rendu."""

    def __post_init__(self) -> None:
        check_int("max_adapters", self.max_adapters, minimum=1, maximum=1024)
        check_int("max_adapter_rank", self.max_adapter_rank, minimum=1, maximum=4096)
        if self.max_memory is not None:  # une taille fautive est refusée tout de suite
            gigabytes("max_memory", self.max_memory)

    @property
    def memory(self) -> float | None:
        """Cette mémoire, en milliards d'octets ; None : pas de borne."""
        return None if self.max_memory is None else gigabytes("max_memory", self.max_memory)


def serve(
    model: ModelSource = None,
    *,
    network: NetworkOptions = NetworkOptions(),
    engine: EngineOptions = EngineOptions(),
    adapters: AdapterOptions = AdapterOptions(),
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Sert un modèle à tout client d'OpenAI, jusqu'à Ctrl-C ou SIGTERM."""
    from gpt_architecture.api import (
        LOCAL_HOSTS,
        check_serving,
        check_source,
        other_models,
        short_name,
        start_engine,
    )

    check_serving()
    from gpt_architecture.serving.http.access import KeyRing
    from gpt_architecture.serving.http.observer import Observer, RequestFilter
    from gpt_architecture.serving.http.server import HttpServer, LoadingGate, bind, url_of
    from gpt_architecture.serving.http.tracing import tracing_to
    from gpt_architecture.serving.limits import Limits
    from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

    _configure_journal(common.log_format, RequestFilter())
    source = find_model(model)
    own, others = named_paths("adapter", adapters.adapter), named_paths("also", adapters.also)
    limits = Limits(
        max_tokens=engine.max_tokens,
        request_seconds=engine.timeout,
        sequences=min(Limits.sequences, engine.max_waiting),
    )
    keys = KeyRing(_keys(network.api_key_file))
    if not keys and network.host not in LOCAL_HOSTS:
        _warn_opened(network.host, engine)
    common_options: dict[str, Any] = {
        "limits": limits,
        "fields": FieldPolicy(strict=network.strict),
        "slots": engine.slots,
        "max_waiting": engine.max_waiting,
        "drafts": engine.drafts,
        "device": engine.device,
        "quant": engine.quant,
        "sign_key": network.sign_key,
    }
    started = list["Engine"]()
    observer = Observer(log_requests=network.log_requests, tracing=tracing_to(network.otlp))

    def build() -> ASGIApp:
        from gpt_architecture.serving.app import create_app

        running, context = start_engine(
            path,
            name=name,
            run_directory=engine.run_directory,
            index=engine.index,
            taken=others,
            adapters=own,
            adapters_dir=adapters.adapters_dir,
            max_adapters=adapters.max_adapters,
            max_adapter_rank=adapters.max_adapter_rank,
            **common_options,
        )
        started.append(running)
        app = create_app(
            context, keys=keys, origins=network.allow_origin, observer=observer, pool=pool
        )
        running.wait_started()
        _answer_steadily()
        if running.state == "ready":
            logger.info(
                "Modèle « %s » prêt : %d textes de front, contexte de %s tokens.",
                *(context.name, engine.slots, french_number(context.window)),
            )
        return app

    gate = LoadingGate(build, observer, origins=network.allow_origin)

    def leave() -> None:
        gate.draining = True
        logger.info("Arrêt demandé : les requêtes en cours finissent (de nouveau pour couper).")

    server = HttpServer(
        gate,
        limits=limits,
        drain_seconds=engine.drain_timeout,
        on_drain=leave,
        on_reload=None if network.api_key_file is None else lambda: _reload(keys, network),
        observer=observer,
    )
    listener = bind(network.host, network.port)
    try:
        path = check_source(source)  # un fichier absent est dit avant d'annoncer une adresse
        name = engine.name or short_name(source, path)
        pool = other_models(others, name, path, max_memory=adapters.memory, **common_options)
    except BaseException:
        listener.close()
        raise
    opened = f"Service sur {url_of(listener)} (studio : /studio, référence : /docs, état : /health)"
    say(in_journal(opened) or opened)
    gate.start(server.request_stop)
    code = server.serve_until_stopped(listener)
    if gate.error is not None:
        raise gate.error
    _stop(started, pool)
    observer.close()
    return code


def _stop(started: Sequence[Engine], pool: ModelPool | None) -> None:
    """Arrête les moteurs."""
    for each in started:
        each.drain(1.0)  # les requêtes HTTP sont finies : il ne reste que des textes abandonnés
        each.stop()
    if pool is not None:
        pool.close()


def _warn_opened(host: str, engine: EngineOptions) -> None:
    """Dit ce que d'autres machines peuvent faire d'un service sans clé."""
    logger.warning("le service écoute sur %s sans clé d'accès ; donnez --api-key-file.", host)
    if engine.index is not None:
        logger.warning("--index sans clé d'accès : des passages des données seront montrés à tous.")


def _answer_steadily() -> None:
    """Le thread HTTP ne s'arrête plus longtemps : ni pour celui du moteur, ni pour la mémoire.

    Parcourir ce que torch et numba ont créé prend 200 ms : tout ce qui est chargé est mis à part,
    et un passage ne voit plus que les requêtes.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)


def _configure_journal(form: LogFormat, about: logging.Filter) -> None:
    """Donne sa forme au journal ; ce qui y nommait les options de la commande reste."""
    named = [each for handler in logging.getLogger(LOGGER).handlers for each in handler.filters]
    configure_logs(JsonLines() if form == "json" else TimedText(), *named, about)


def _keys(path: Path | None) -> list[str]:
    """Les clés du fichier et de l'environnement."""
    from gpt_architecture.serving.http.access import read_keys

    keys = [] if path is None else read_keys(path)
    keys += [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    return keys


def _reload(keys: KeyRing, network: NetworkOptions) -> None:
    """Relit les clés ; un fichier mauvais laisse celles d'avant."""
    try:
        keys.replace(_keys(network.api_key_file))
    except GPTArchitectureError as error:
        logger.error("clés non relues, celles d'avant restent : %s", error)
    else:
        logger.info("clés relues : %s", ", ".join(keys.names))


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["serve", *sys.argv[1:]])
