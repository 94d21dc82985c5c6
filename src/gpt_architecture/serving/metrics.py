"""Mesures pour Prometheus, sous les noms de vLLM : ses tableaux de bord s'en servent tels quels."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import Event, Failed, Finished, Produced
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
        self._registry.register(_EngineCollector(engine, model))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            found = Histogram(
                f"vllm:{name}", text, ["model_name"], buckets=buckets, registry=self._registry
            )
            return found.labels(model)

        self.first = histogram("time_to_first_token_seconds", "Attente du premier token.", _FIRST)
        self.each = histogram("inter_token_latency_seconds", "Temps entre deux tokens.", _EACH)
        self.whole = histogram("e2e_request_latency_seconds", "Durée d'un texte.", _WHOLE)
        self.mean = histogram(
            "request_time_per_output_token_seconds", "Temps moyen par token d'un texte.", _EACH
        )
        self.success = Counter(
            "vllm:request_success",
            "Textes achevés, par raison.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self.failures = Counter(
            "vllm:request_failure", "Textes échoués.", ["model_name"], registry=self._registry
        ).labels(model)
        self.model = model

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


class _EngineCollector(Collector):
    """Lit l'état du moteur au moment du relevé."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def collect(self) -> Iterator[Metric]:
        """Les jauges et les compteurs du moteur."""
        stats = self._engine.stats()
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
                found = family(f"vllm:{name}", text, labels=["model_name"])
                found.add_metric([self._model], value)
                yield found
