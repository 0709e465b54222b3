"""RabbitMQ, our queues on it, and how long it lets a delivery be."""

import asyncio
import ipaddress
import re
from pathlib import Path

from bridge.doctor.findings import Finding, finding, fine
from bridge.errors import BridgeError, QueueError
from bridge.names import DEAD_LETTERS
from bridge.overview import bounded
from bridge.queues import Existing, Found, Management, NodeFigures, compare, queue_depths
from bridge.settings import Settings

_FEW_DESCRIPTORS = 4096
_DEFAULT_TIMEOUT_S = 1800.0  # since RabbitMQ 3.8.17
_NO_TIMEOUT = float("inf")
# rabbitmq.conf, in milliseconds; advanced.config, in Erlang's terms, which goes before.
_PLAIN = re.compile(r"^\s*consumer_timeout\s*=\s*(\d+)", re.MULTILINE)
_ADVANCED = re.compile(r"\{\s*consumer_timeout\s*,\s*(\d+|undefined)\s*\}")


async def check_rabbitmq(settings: Settings) -> list[Finding]:
    """Reachability and authentication; alarms and limits of its nodes."""
    if settings.bridge_queue == "redis-streams":
        return [finding("queue-is-redis-streams", f"in Redis at {settings.redis_shown}")]
    try:
        await bounded(queue_depths(settings))
    except BridgeError as error:
        return [finding("rabbitmq-unreachable", str(error))]
    found = [fine(f"RabbitMQ at {settings.rabbitmq_shown} lets {settings.rabbitmq_username!r} in")]
    try:
        nodes = await Management(settings).nodes()
    except QueueError as error:
        return [*found, finding("management-absent", str(error))]
    for node in nodes:
        if node.alarms:
            told = " and ".join(node.alarms).replace("mem", "memory").replace("disk_free", "disk")
            found.append(finding("rabbitmq-alarm", f"{node.name} is short of {told}"))
        if node.descriptors is not None and node.descriptors < _FEW_DESCRIPTORS:
            told = f"{node.name} may have {node.descriptors}"
            found.append(finding("rabbitmq-descriptors", told))
    return found


async def check_queues(settings: Settings) -> list[Finding]:
    """What exists against what we would declare; what waits and who consumes."""
    found: list[Finding] = []
    if settings.bridge_queue == "rabbitmq":
        found = [_compared(each) for each in await bounded(compare(settings))]
    for depth in await bounded(queue_depths(settings)):
        if not depth.messages:
            continue
        if depth.name.endswith(DEAD_LETTERS):
            found.append(finding("dead-letters", f"{depth.messages} in {depth.name}"))
        elif depth.consumers == 0:
            found.append(finding("queue-unserved", f"{depth.messages} wait in {depth.name}"))
    return found


def _compared(existing: Existing) -> Finding:
    named = f"{existing.kind} {existing.name}"
    if existing.found is Found.OURS:
        return fine(f"{named} is as we would declare it")
    if existing.found is Found.MISSING:
        return finding("queue-missing", named)
    if existing.found is Found.UNKNOWN:
        return finding("queue-not-comparable", f"{named}: {existing.said}")
    code = "exchange-differs" if existing.kind == "exchange" else "queue-differs"
    return finding(code, f"{named}: {existing.said}")


async def check_timeout(settings: Settings) -> list[Finding]:
    """RabbitMQ's consumer_timeout against how long we may hold a delivery."""
    if settings.bridge_queue == "redis-streams":
        return [fine("Redis Streams have none")]
    longest_s = {
        settings.taskiq_ml_queue: settings.bridge_infer_timeout_s,
        settings.taskiq_ml_training_queue: settings.bridge_training_slice_s,
    }
    api = Management(settings)
    try:
        general_s = await _configured_s(settings, await api.nodes())
        limits_s = {queue: await _of_queue_s(api, queue, general_s) for queue in longest_s}
    except QueueError as error:
        return [finding("consumer-timeout-unknown", str(error))]
    return [_judged(queue, limits_s[queue], takes_s) for queue, takes_s in longest_s.items()]


def _judged(queue: str, limit_s: float | None, takes_s: float) -> Finding:
    if limit_s is None:
        return finding(
            "consumer-timeout-unknown",
            f"for {queue}: no policy sets it, and its configuration is not on this machine",
        )
    told = f"{limit_s:g} s for {queue}, whose deliveries may take {takes_s:g} s"
    if limit_s <= takes_s:
        return finding("consumer-timeout-short", told)
    return finding("consumer-timeout-near", told) if limit_s < 2 * takes_s else fine(told)


async def _of_queue_s(api: Management, queue: str, general_s: float | None) -> float | None:
    """A queue's own limit (RabbitMQ 3.12 and later), else the general one, in seconds."""
    figures = await api.queue(queue)
    own = figures and (
        figures.policy.get("consumer-timeout") or figures.arguments.get("x-consumer-timeout")
    )
    return float(own) / 1000 if own else general_s


async def _configured_s(settings: Settings, nodes: list[NodeFigures]) -> float | None:
    """The general limit, from the files that each node names; None: they are not to be read."""
    if not _is_here(settings.rabbitmq_host) or not nodes:
        return None
    limits = []
    for node in nodes:
        try:
            texts = [await asyncio.to_thread(_read, Path(file)) for file in node.config_files]
        except OSError:
            return None
        if not texts:  # the API knows some seconds after the start
            return None
        limits.append(_limit_s("\n".join(texts)))
    return min(limits)


def _read(file: Path) -> str:
    """A file, or all of a folder of them (conf.d)."""
    files = sorted(file.iterdir()) if file.is_dir() else [file]
    return "\n".join(each.read_text(errors="replace") for each in files)


def _limit_s(text: str) -> float:
    advanced, plain = _ADVANCED.findall(text), _PLAIN.findall(text)
    if advanced:
        return _NO_TIMEOUT if advanced[-1] == "undefined" else int(advanced[-1]) / 1000
    return int(plain[-1]) / 1000 if plain else _DEFAULT_TIMEOUT_S


def _is_here(host: str) -> bool:
    """Whether a broker's files may be those of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
