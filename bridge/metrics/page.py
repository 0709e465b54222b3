"""What is scraped: all processes' figures, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from bridge.metrics.gauges import Gauges
from bridge.metrics.series import FOLDER


def render() -> bytes:
    """The page; also called on a thread of its own."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(FOLDER))  # type: ignore[no-untyped-call]
    registry.register(Gauges())
    return generate_latest(registry)
