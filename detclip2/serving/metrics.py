"""What a server counts, in the text format of Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server; docs/serve.md has their list."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = self._counter("requests", "answers by path and status", "path", "status")
        self.vocabularies = self._counter(
            "vocabularies", "vocabularies of requests: kept encoded, or encoded anew", "found"
        )
        self.seconds = Histogram(
            "detclip2_request_seconds",
            "from the head of a request to its answer",
            ("path",),
            registry=self._registry,
        )
        self.batches = Histogram(
            "detclip2_batch_images",
            "images of a batch",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.waiting = Gauge(
            "detclip2_waiting", "requests in work or waiting", registry=self._registry
        )
        self.names = Gauge("detclip2_cached_names", "names kept encoded", registry=self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"detclip2_{name}", meaning, labels, registry=self._registry)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
