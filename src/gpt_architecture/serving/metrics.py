"""Mesures pour Prometheus, sous les noms de vLLM : ses tableaux de bord s'en servent tels quels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import (
    EngineStats,
    Event,
    Failed,
    Finished,
    Produced,
)
from gpt_architecture.serving.http.observer import Observer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.5, 5.0, 10.0, 20.0, 40.0)
_EACH = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_WHOLE = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Les mesures d'un service ; rien n'est global.

    Args:
        engine: le moteur, dont l'état est lu à chaque relevé.
        model: valeur de l'étiquette `model_name`.
        observer: compte les requêtes HTTP.
    """

    def __init__(self, engine: Engine, model: str, observer: Observer) -> None:
        self._registry = CollectorRegistry()
        observer.register(self._registry)
        self._engines = dict[str, Engine]()
        self._registry.register(_EngineCollector(self._engines))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"vllm:{name}", text, ["model_name"], buckets=buckets, registry=self._registry
            )

        self._histograms = (
            histogram("time_to_first_token_seconds", "Attente du premier token.", _FIRST),
            histogram("inter_token_latency_seconds", "Temps entre deux tokens.", _EACH),
            histogram("e2e_request_latency_seconds", "Durée d'un texte.", _WHOLE),
            histogram(
                "request_time_per_output_token_seconds", "Temps moyen par token d'un texte.", _EACH
            ),
        )
        self.success = Counter(
            "vllm:request_success",
            "Textes achevés, par raison.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._failures = Counter(
            "vllm:request_failure", "Textes échoués.", ["model_name"], registry=self._registry
        )
        self._name(engine, model)

    def of(self, engine: Engine, model: str) -> Metrics:
        """Les mêmes mesures, d'un autre modèle du service."""
        found = copy(self)
        found._name(engine, model)
        return found

    def watch(self, states: Callable[[], Mapping[str, str]]) -> None:
        """Relève aussi quels modèles sont chargés, parmi ceux que `states` nomme."""
        self._registry.register(_StateCollector(states))

    def forget(self, model: str) -> None:
        """Ne lit plus l'état d'un modèle qui n'est plus chargé ; ce qui est compté reste."""
        self._engines.pop(model, None)

    def _name(self, engine: Engine, model: str) -> None:
        self.model, self._engines[model] = model, engine
        each = [histogram.labels(model) for histogram in self._histograms]
        self.first, self.each, self.whole, self.mean = each
        self.failures = self._failures.labels(model)

    def render(self) -> bytes:
        """Le relevé, au format texte de Prometheus."""
        return generate_latest(self._registry)


class SequenceWatch:
    """Mesure une séquence, de sa demande à sa fin.

    Args:
        metrics: reçoit les mesures.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = time.perf_counter()
        self._first = self._last = 0.0

    def see(self, event: Event) -> None:
        """Ce qui lui arrive : un token, sa fin, son échec."""
        now, metrics = time.perf_counter(), self._metrics
        match event:
            case Produced():
                if self._last:
                    metrics.each.observe(now - self._last)
                else:
                    self._first = now
                    metrics.first.observe(now - self._start)
                self._last = now
            case Finished(completion_tokens=count):
                metrics.whole.observe(now - self._start)
                if count > 1:
                    metrics.mean.observe((self._last - self._first) / (count - 1))
                metrics.success.labels(metrics.model, event.reason).inc()
            case Failed():
                metrics.failures.inc()


class _StateCollector(Collector):
    """Dit quels modèles sont chargés."""

    def __init__(self, states: Callable[[], Mapping[str, str]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Une jauge par modèle : 1 s'il est chargé."""
        found = GaugeMetricFamily(
            "gpt_architecture_model_loaded", "1 si le modèle est chargé.", labels=["model_name"]
        )
        for name, state in self._states().items():
            found.add_metric([name], float(state == "loaded"))
        yield found


class _EngineCollector(Collector):
    """Lit l'état du moteur au moment du relevé."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """Les jauges et les compteurs des moteurs, chacun sous le nom de son modèle."""
        found = dict[str, Any]()
        for model, engine in self._engines.items():
            for name, family, text, value in self._measures(engine.stats()):
                if name not in found:
                    found[name] = family(f"vllm:{name}", text, labels=["model_name"])
                found[name].add_metric([model], value)
        yield from found.values()

    @staticmethod
    def _measures(stats: EngineStats) -> Iterator[tuple[str, Any, str, float]]:
        used = stats.kv_tokens / stats.kv_capacity if stats.kv_capacity else 0.0
        gauges = {
            "num_requests_running": ("Textes en cours de génération.", float(stats.running)),
            "num_requests_waiting": ("Textes qui attendent un emplacement.", float(stats.waiting)),
            "kv_cache_usage_perc": ("Part du cache occupée, de 0 à 1.", used),
            "engine_ready": ("1 si le moteur accepte des requêtes.", float(stats.state == "ready")),
        }
        counters = {
            "prompt_tokens": ("Tokens d'invite.", stats.prompt_tokens),
            "generation_tokens": ("Tokens écrits.", stats.completion_tokens),
            "prefix_cache_queries": ("Tokens d'invite cherchés en mémoire.", stats.prompt_tokens),
            "prefix_cache_hits": ("Tokens d'invite trouvés en mémoire.", stats.cached_tokens),
            "spec_decode_num_draft_tokens": ("Tokens proposés d'avance.", stats.drafted_tokens),
            "spec_decode_num_accepted_tokens": (
                "Tokens proposés et gardés.",
                stats.accepted_tokens,
            ),
            "engine_restarts": ("Échecs du modèle suivis d'un redémarrage.", stats.restarts),
        }
        families = ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters))
        for family, measures in families:
            for name, (text, value) in measures.items():
                yield name, family, text, value
