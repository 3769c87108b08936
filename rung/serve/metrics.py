"""What a server counts, in Prometheus' text format."""

import collections

from rung.serve.systems import Systems

ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/decisions": "decisions",
    "/v1/systemone": "systemone",
}
"""What answers are counted under; everything else is `other`."""


class Metrics:
    """Counters of one server; a gauge is read off the engines when it is asked for."""

    def __init__(self, systems: Systems) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rung_requests",
            "Requests by route, System and status.",
            ["route", "system", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "rung_request_seconds",
            "Seconds from a request to the end of its response.",
            ["route", "system"],
            registry=self._registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )
        self._tokens = Counter(
            "rung_tokens", "Tokens of prompts and of answers.", ["system", "part"], registry=self._registry
        )
        self._registry.register(_Engines(systems))

    def count(self, route: str, system: str, status: int, seconds: float) -> None:
        """Note a response."""
        self._requests.labels(route, system, str(status)).inc()
        self._seconds.labels(route, system).observe(seconds)

    def refused(self, path: str, status: int) -> None:
        """Note a request that was refused before anything was made for it."""
        self._requests.labels(ROUTES.get(path, "other"), "", str(status)).inc()

    def tokens(self, system: str, prompt: int, written: int) -> None:
        """Note the tokens of an answer."""
        self._tokens.labels(system, "prompt").inc(prompt)
        self._tokens.labels(system, "answer").inc(written)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class _Engines:
    """What the engines are at, read when it's asked for."""

    def __init__(self, systems: Systems) -> None:
        self._systems = systems

    def collect(self):
        """The gauges."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        systems = self._systems
        # Two bases may have the same file name: the digest tells them apart. One may have several contexts.
        several = collections.Counter(digest for digest, _ in systems.hosts)
        hosts = [
            (
                f"{host.spec.gguf.stem if host.spec.gguf else ''}-{digest[:8]}"
                + (f"-{context}" if several[digest] > 1 else ""),
                host,
            )
            for (digest, context), host in systems.hosts.items()
        ]
        running = GaugeMetricFamily("rung_running", "Requests that an engine is at.", labels=["engine"])
        waiting = GaugeMetricFamily("rung_waiting", "Requests that wait for an engine.", labels=["engine"])
        memory = GaugeMetricFamily("rung_engine_bytes", "Resident memory of a child.", labels=["engine"])
        restarts = CounterMetricFamily("rung_restarts", "Children started again.", labels=["engine"])
        for name, host in hosts:
            running.add_metric([name], host.lanes.running)
            waiting.add_metric([name], host.lanes.waiting)
            memory.add_metric([name], host.memory_mb() * 2**20)
            restarts.add_metric([name], host.restarts)
        running.add_metric(["bench"], systems.bench.running)
        waiting.add_metric(["bench"], systems.bench.waiting)
        whole = GaugeMetricFamily("rung_memory_bytes", "Resident memory of server and children.")
        whole.add_metric([], systems.memory_mb() * 2**20)
        return [running, waiting, memory, restarts, whole]
