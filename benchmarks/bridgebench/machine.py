"""What the figures were taken on: the machine, and the versions of everything."""

import asyncio
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson
import psutil

from bridgebench.scenarios.run import Run

PACKAGES = (
    "taskiq-triton-bridge",
    "taskiq",
    "taskiq-aio-pika",
    "taskiq-redis",
    "aio-pika",
    "aiormq",
    "redis",
    "hiredis",
    "uvloop",
    "orjson",
    "msgpack",
    "grpcio",
    "tritonclient",
    "nvidia-pytriton",
    "onnxruntime",
    "numpy",
    "celery",
    "kombu",
    "dramatiq",
    "pika",
)


def describe_machine() -> dict[str, Any]:
    """Cores, processor, memory."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
    }


async def describe_versions(run: Run, packages: Sequence[str]) -> dict[str, str]:
    """Of packages, and of servers as they say themselves."""
    versions = {"Python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    versions["Triton"] = await asyncio.to_thread(_triton_version, run.ground.triton.http_url)
    versions["RabbitMQ"] = run.post.server_version
    versions["Redis"] = str((await run.redis.info("server"))["redis_version"])
    return versions


def _triton_version(http_url: str) -> str:
    with urlopen(f"{http_url}/v2", timeout=10) as answer:  # noqa: S310 - our own server
        return str(orjson.loads(answer.read())["version"])


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
