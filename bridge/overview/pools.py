"""Worker pools, by their own pages: `/readyz` and `/metrics`."""

from dataclasses import dataclass

import orjson

from bridge.fetch import fetch
from bridge.overview.histograms import Histograms, read_histograms
from bridge.overview.parts import UP, Part
from bridge.settings import Settings

_READY, _UNREADY = 200, 503


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process; `state` is "ready", or what is missing."""

    pool: str
    process: str
    state: str


async def find_workers(url: str) -> tuple[Part, list[Worker]]:
    """A pool and its processes.

    Args:
        url: where it answers.
    """
    try:
        status, body = await fetch(f"{url}/readyz")
    except OSError as error:
        wrong = f"does not answer ({error}): check BRIDGE_WORKER_URLS, and that it runs"
        return Part("worker pool", url, wrong), []
    try:
        processes = orjson.loads(body)["processes"] if status in {_READY, _UNREADY} else None
        workers = [Worker(url, pid, _state(it)) for pid, it in sorted((processes or {}).items())]
    except (ValueError, KeyError, TypeError, AttributeError):
        processes = None
    if processes is None:
        wrong = f"no worker pool answers there (HTTP {status}): check BRIDGE_WORKER_URLS"
        return Part("worker pool", url, wrong), []
    unready = sum(worker.state != "ready" for worker in workers)
    if status == _READY:
        return Part("worker pool", url, UP), workers
    wrong = f"{unready} of {len(workers)} processes are not ready" if workers else "no process"
    return Part("worker pool", url, wrong), workers


def _state(process: dict[str, object]) -> str:
    if process["ready"]:
        return "ready"
    if not process["live"]:
        return "hangs: it has said nothing for a while"
    parts = process["parts"]
    told = parts.items() if isinstance(parts, dict) else ()
    return "; ".join(f"{name}: {wrong}" for name, wrong in told if wrong != "ok")


async def read_metrics(settings: Settings) -> Histograms:
    """The histograms of all pools that answer."""
    pages = []
    for url in settings.worker_urls:
        try:
            status, body = await fetch(f"{url}/metrics")
        except OSError:  # the parts tell
            continue
        if status == _READY:
            pages.append(body.decode(errors="replace"))
    try:
        return read_histograms(pages)
    except ValueError:  # something else answers there
        return {}
