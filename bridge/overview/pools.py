"""Worker pools, by their own pages: `/readyz` and `/metrics`.

A pool of several containers has one name and an address for each: each is asked, and is a part.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from bridge.fetch import fetch, servers_of
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


async def find_workers(urls: Sequence[str]) -> list[tuple[Part, list[Worker]]]:
    """Pools and their processes.

    Args:
        urls: where they answer.
    """
    return await asyncio.gather(*(_find(*place) for place in await _places(urls)))


async def _places(urls: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each URL with each address to be asked; None: whichever answers."""
    places: list[tuple[str, str | None]] = []
    for url, servers in zip(urls, await asyncio.gather(*map(servers_of, urls)), strict=True):
        places += [(url, address) for address in servers] or [(url, None)]
    return places


async def _find(url: str, address: str | None) -> tuple[Part, list[Worker]]:
    shown = url if address is None else f"{url} ({address})"
    try:
        status, body = await fetch(f"{url}/readyz", address=address)
    except OSError as error:
        wrong = f"does not answer ({error}): check BRIDGE_WORKER_URLS, and that it runs"
        return Part("worker pool", shown, wrong), []
    try:
        processes = orjson.loads(body)["processes"] if status in {_READY, _UNREADY} else None
        workers = [Worker(shown, pid, _state(it)) for pid, it in sorted((processes or {}).items())]
    except (ValueError, KeyError, TypeError, AttributeError):
        processes = None
    if processes is None:
        wrong = f"no worker pool answers there (HTTP {status}): check BRIDGE_WORKER_URLS"
        return Part("worker pool", shown, wrong), []
    unready = sum(worker.state != "ready" for worker in workers)
    if status == _READY:
        return Part("worker pool", shown, UP), workers
    wrong = f"{unready} of {len(workers)} processes are not ready" if workers else "no process"
    return Part("worker pool", shown, wrong), workers


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
    places = await _places(settings.worker_urls)
    pages = await asyncio.gather(*(_page(*place) for place in places))
    try:
        return read_histograms(pages)
    except ValueError:  # something else answers there
        return {}


async def _page(url: str, address: str | None) -> str:
    try:
        status, body = await fetch(f"{url}/metrics", address=address)
    except OSError:  # the parts tell
        return ""
    return body.decode(errors="replace") if status == _READY else ""
