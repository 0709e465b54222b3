"""The models that Triton has: whether they are served, and whether they can batch."""

import asyncio
from typing import Any

from bridge.doctor.findings import Finding, finding, fine
from bridge.errors import BridgeError, RestrictedError
from bridge.overview import bounded
from bridge.settings import Settings
from bridge.triton_client import TritonClient

_UNLOADED = {"", "unloaded"}
_NO_BACKEND = "unable to find backend"
_FIXED = "dynamic first dimension"  # our backend's words
_BUSY = 1
"""Batches that wait beside those that run: one gathers while an instance computes."""


async def check_models(settings: Settings) -> list[Finding]:
    """States, backends, and configurations that cannot batch."""
    async with TritonClient.from_settings(settings) as triton:
        found = await _not_served(triton)
        configs = await _configs(triton)
    backends = sorted({config.backend or config.platform for config in configs})
    told = f"{len(configs)} models are served, by {', '.join(backends) or 'no backend'}"
    return [fine(told), *found, *filter(None, map(_batching, configs))]


async def _not_served(triton: TritonClient) -> list[Finding]:
    try:
        index = await bounded(triton.index())
    except RestrictedError:
        return [finding("not-checked", "models that could not be loaded: that takes the admin key")]
    found = []
    for model in index:
        if model.state != "UNAVAILABLE" or model.reason in _UNLOADED:
            continue
        told = f"{model.name} version {model.version}: {model.reason}"
        if _NO_BACKEND in model.reason:
            found.append(finding("backend-missing", told))
        elif _FIXED in model.reason:
            found.append(finding("model-fixed-rows", told))
        else:
            found.append(finding("model-unavailable", told))
    return found


async def _configs(triton: TritonClient) -> list[Any]:
    """Of each model that is served."""
    served = sorted({each.name for each in await bounded(triton.statistics())})
    answers = await asyncio.gather(
        *(bounded(triton.config(name)) for name in served), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, BridgeError):
            raise answer
    # One that was unloaded meanwhile is no news.
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def _batching(config: Any) -> Finding | None:
    if config.max_batch_size > 0:
        joins = any(
            config.HasField(way)
            for way in ("dynamic_batching", "sequence_batching", "ensemble_scheduling")
        )
        told = f"{config.name} has max_batch_size {config.max_batch_size}, no dynamic_batching"
        return None if joins else finding("model-no-dynamic-batching", told)
    fixed = [tensor.name for tensor in config.input if not tensor.dims or tensor.dims[0] != -1]
    if fixed:
        return finding("model-fixed-rows", f"{config.name}: its input {', '.join(fixed)}")
    return finding("model-not-batched", config.name)


async def check_prefetch(settings: Settings) -> list[Finding]:
    """BRIDGE_PREFETCH against the models' batches and instances."""
    async with TritonClient.from_settings(settings) as triton:
        configs = await _configs(triton)
    prefetch, processes = settings.bridge_prefetch, settings.ml_worker_count
    found = []
    for config in configs:
        rows = config.max_batch_size
        instances = sum(group.count for group in config.instance_group) or 1
        if rows > prefetch:
            told = f"BRIDGE_PREFETCH is {prefetch}, max_batch_size of {config.name} {rows}"
            found.append(finding("prefetch-below-batch", told))
        elif rows * (instances + _BUSY) > prefetch * processes:
            told = (
                f"{processes} workers take {prefetch} messages each; {config.name} has {instances} "
                f"instances with batches of {rows}"
            )
            found.append(finding("prefetch-below-concurrency", told))
    return found or [fine(f"{prefetch} messages for each of {processes} workers")]
