"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glr_assets.serving.decoder_pool import ENDS, DecoderPool
from glr_assets.serving.live import FAILURES, Live

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Counted(Collector):
    """What others count, as Prometheus wants it."""

    def __init__(self, name: str, about: str, label: str, values: tuple[str, ...], counts: Mapping[str, int]) -> None:
        self._name, self._about, self._label, self._values, self._counts = name, about, label, values, counts

    def collect(self) -> Iterator[Metric]:
        found = CounterMetricFamily(self._name, self._about, labels=[self._label])
        for value in self._values:
            found.add_metric([value], self._counts[value])
        yield found


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self, live: Live, decoders: DecoderPool) -> None:
        self._live = live
        self.registry = CollectorRegistry()
        about = "Failed attempts to load an index"
        self.registry.register(_Counted("glr_index_load_failures", about, "kind", FAILURES, live.failures))
        about = "Decoders ended on a photograph"
        self.registry.register(_Counted("glr_decoders_ended", about, "reason", ENDS, decoders.ended))
        self.requests = Counter(
            "glr_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "glr_request_seconds", "From header to answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.steps = Histogram(
            "glr_step_seconds", "Of a recognition", ["step"], buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter("glr_refused", "Photographs and requests refused", ["code"], registry=self.registry)
        self.recognised = Counter("glr_recognised", "Photographs answered", ["is_landmark"], registry=self.registry)
        self.busy = Gauge("glr_busy", "Requests computed or waiting for it", registry=self.registry)
        self.arriving = Gauge("glr_arriving", "Requests with bodies that are not answered", registry=self.registry)
        self.upload_bytes = Gauge("glr_upload_bytes", "Bytes of their bodies", registry=self.registry)
        self.connections = Gauge("glr_connections", "Open connections", registry=self.registry)
        self._images = Gauge("glr_index_images", "Photographs that are searched", registry=self.registry)
        self._loads = Gauge("glr_index_loads", "Times that an index was taken up", registry=self.registry)
        self._stale = Gauge("glr_index_stale", "1 while a newer index cannot be loaded", registry=self.registry)
        self._checked = Gauge(
            "glr_index_checked_timestamp_seconds", "Last successful look at the store", registry=self.registry
        )
        self._version = Gauge("glr_index_info", "1 of what is searched", ["version"], registry=self.registry)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        live = self._live
        self._version.clear()
        current = live.current
        if current is not None:
            self._version.labels(current.recogniser.version).set(1)
        self._images.set(0 if current is None else len(current.recogniser))
        self._loads.set(live.loads)
        self._stale.set(live.stale_since is not None)
        self._checked.set(live.checked)
        return generate_latest(self.registry)

    def took(self, seconds: Mapping[str, float]) -> None:
        """Count the steps of a recognition."""
        for step, value in seconds.items():
            self.steps.labels(step).observe(value)

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request by its route, never by its path, of which there is no end."""
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in {"GET", "POST", "HEAD", "OPTIONS"} else "other"
            self.requests.labels(method, route, str(status)).inc()
            self.latency.labels(route).observe(time.perf_counter() - began)
