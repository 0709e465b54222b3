"""Worker pools, by what they say of themselves."""

from bridge.doctor.findings import Finding, finding, fine
from bridge.overview.parts import UP
from bridge.overview.pools import find_workers
from bridge.settings import Settings


async def check_workers(settings: Settings) -> list[Finding]:
    """`/readyz` of each pool of BRIDGE_WORKER_URLS, of each container where it has several."""
    if not settings.worker_urls:
        return [fine("no BRIDGE_WORKER_URLS are set: consumers are counted only")]
    found = []
    for part, workers in await find_workers(settings.worker_urls):
        if part.state != UP and not workers:
            found.append(finding("worker-pool-unreachable", f"{part.address} {part.state}"))
        found += [
            finding(
                "worker-not-ready", f"process {worker.process} of {worker.pool}: {worker.state}"
            )
            for worker in workers
            if worker.state != "ready"
        ]
        if part.state == UP:
            found.append(fine(f"{part.address}: {len(workers)} processes are ready"))
    return found
