"""All checks at the same time, each within its own time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from bridge.doctor.findings import Finding, finding, fine
from bridge.doctor.machine import check_descriptors, check_disk, check_gpu, check_versions
from bridge.doctor.models import check_models, check_prefetch
from bridge.doctor.queue import check_queues, check_rabbitmq, check_timeout
from bridge.doctor.redis import check_redis, check_results
from bridge.doctor.repository import check_repository
from bridge.doctor.triton import check_triton
from bridge.doctor.workers import check_workers
from bridge.errors import BridgeError
from bridge.settings import Settings

logger = logging.getLogger("bridge.doctor")

Check = Callable[[Settings], Awaitable[list[Finding]]]

CHECKS: dict[str, Check] = {
    "rabbitmq": check_rabbitmq,
    "queues": check_queues,
    "timeout": check_timeout,
    "redis": check_redis,
    "results": check_results,
    "triton": check_triton,
    "models": check_models,
    "prefetch": check_prefetch,
    "repository": check_repository,
    "workers": check_workers,
    "disk": check_disk,
    "descriptors": check_descriptors,
    "gpu": check_gpu,
    "versions": check_versions,
}
"""By the name that `mlbridge doctor --only` takes."""

_CHECK_S = 10.0


async def examine(settings: Settings, only: Iterable[str] = ()) -> list[Finding]:
    """Make the checks.

    Args:
        settings: where the parts are.
        only: names of checks; all, if there is none.

    Returns:
        At least one finding for each check, in the order of the checks, the worst of each first.
    """
    wanted = [name for name in CHECKS if name in set(only)] or list(CHECKS)
    found = await asyncio.gather(*(_make(name, settings) for name in wanted))
    return [each for findings in found for each in findings]


async def _make(name: str, settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(_CHECK_S):
            found = await CHECKS[name](settings)
    except TimeoutError:
        found = [finding("not-checked", f"no answer within {_CHECK_S:g} s")]
    except BridgeError as error:  # the part's own check tells it as an error
        found = [finding("not-checked", str(error))]
    except Exception as error:
        logger.debug("check %r broke", name, exc_info=True)
        found = [finding("check-failed", f"{type(error).__name__}: {error}")]
    found = found or [fine("nothing to tell")]
    found = [replace(each, check=name) for each in found]
    return sorted(found, key=lambda each: -each.severity)
