"""The whole check: is there a GPU, the demo on it, the measurements, the report on disk.

Leaves in a folder: `results.json`, `results.md`.
"""

import asyncio
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import torch
from pydantic import SecretStr

from bridge.cli.demo import run_demo
from bridge.embedded.stack import Stack
from bridge.embedded.triton import TritonServer
from bridge.settings import load_settings
from bridgebench import pages
from bridgebench.findings import Report
from bridgebench.gpu import report
from bridgebench.gpu.measuring import Plan, measure
from bridgebench.gpu.needs import first_of
from bridgebench.gpu.presence import Gpu
from bridgebench.gpu.usage import Usage
from bridgebench.machine import describe_machine

RESULTS, PAGE = "results.json", "results.md"
REHEARSAL = (
    "**A rehearsal on processors: no GPU was used. It shows that everything works; its figures "
    "mean nothing.**"
)
_DEMO, _MEASURING = "the demo", "the measurements"
_SCHEMA = 1
_TRAINING_MB = 100.0  # a CUDA context alone takes more
_BYTES_A_PARAMETER = 2  # FP16
_PACKAGES = (
    "taskiq-triton-bridge",
    "onnxruntime-gpu",
    "onnxruntime",
    "nvidia-pytriton",
    "tritonclient",
    "torch",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Check:
    """What to do."""

    plan: Plan
    workers: int
    hyperparameters: dict[str, Any]
    """Of the demo's training."""
    out: Path


async def run(check: Check, gpus: list[Gpu], say: Callable[[str], None]) -> bool:
    """Do it all and write the report; says whether all that must be so is so.

    Args:
        check: what to do.
        gpus: as `needs.require_gpu` found them; empty for a rehearsal.
        say: gets a line for people now and then.
    """
    begun, started = time.monotonic(), datetime.now(UTC)
    machine = describe_machine()
    gpu = first_of(gpus) if gpus else None
    checks: list[report.Check] = []
    reports: list[Report] = []
    for what, part in ((_DEMO, _demonstrate), (_MEASURING, _measure)):
        say(what)
        try:
            seen, found = await part(check, gpus, Usage(gpu.uuid) if gpu else None, say)
        except Exception as error:  # noqa: BLE001 - told, and what the other part finds is kept
            traceback.print_exc()
            checks.append(report.check_failed(what, f"{type(error).__name__}: {error}"))
            continue
        checks += seen
        reports.insert(0, found)
    facts = {
        "schema": _SCHEMA,
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "repetitions": check.plan.repetitions,
        "rehearsal": not gpus,
        "quick": False,  # a rehearsal says so itself
        "command": " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine | {"load_after": round(os.getloadavg()[0], 2)},
        "versions": _versions(gpus),
        "took_s": time.monotonic() - begun,
    }
    _write(check.out, facts, [report.used(checks), *reports])
    for each in checks:
        say(f"  {report.WORDS[each.passed]} {each.title}: {each.seen}")
    for found in reports:
        for finding in found.findings:
            say(f"  {finding.title}: {finding.value.shown(finding.unit)} {finding.verdict}")
        for note in found.notes:
            say(f"  {note}")
    return all(each.passed is not False for each in checks)


_Part = tuple[list[report.Check], Report]


async def _demonstrate(
    check: Check, gpus: list[Gpu], usage: Usage | None, _: Callable[[str], None]
) -> _Part:
    with usage or nullcontext():
        demo = await run_demo(check.hyperparameters)
    checks = [
        _trained(demo, check, gpus),
        report.check_instances(_DEMO, demo["served_on"], _device(gpus)),
        *_used(_DEMO, gpus, usage, _TRAINING_MB),
    ]
    return checks, report.demonstrated(demo)


async def _measure(
    check: Check, gpus: list[Gpu], usage: Usage | None, say: Callable[[str], None]
) -> _Part:
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        # What RabbitMQ would not carry travels beside it, as it should in production.
        store = SecretStr(Path(folder).as_uri())
        settings = load_settings().model_copy(update={"bridge_payload_url": store})
        async with Stack(
            settings, private=True, workers=check.workers, training_workers=0
        ) as stack:
            say(f"  tasks wait in {stack.settings.bridge_queue}")
            measured = await measure(check.plan, stack.settings, usage or nullcontext(), say)
            server = next(part.server for part in stack.parts if part.name == "triton")
            assert isinstance(server, TritonServer)  # noqa: S101 - a private stack has its own
            instances = await server.instances()
    weights = sum(net.parameters for net in check.plan.nets) * _BYTES_A_PARAMETER / 2**20
    checks = [
        report.check_instances(_MEASURING, instances, _device(gpus)),
        *_used(_MEASURING, gpus, usage, weights),
        *report.check_measured(check.plan, measured),
    ]
    return checks, report.compare(check.plan, measured)


def _trained(demo: dict[str, Any], check: Check, gpus: list[Gpu]) -> report.Check:
    """Whether the model learnt; with "16-mixed" a training is refused where there is no GPU."""
    accuracy = min(way["accuracy"] for way in demo["ways"].values())
    seen = f"precision {check.hyperparameters['precision']}, accuracy {accuracy:.2%}"
    return report.Check("training", seen, demo["passed"] or not gpus)


def _used(what: str, gpus: list[Gpu], usage: Usage | None, least_mb: float) -> list[report.Check]:
    """What nvidia-smi said meanwhile, if there are GPUs, and it lists the one that was used."""
    if not gpus:
        return []
    return report.check_usage(
        what,
        grown_mb=usage.grown_mb if usage else None,
        utilisation=usage.utilisation if usage else None,
        least_mb=least_mb,
    )


def _device(gpus: list[Gpu]) -> str:
    return "cuda:" if gpus else "cpu:"


def _versions(gpus: list[Gpu]) -> dict[str, str]:
    versions = {f"GPU {gpu.index}": f"{gpu.name} ({gpu.memory})" for gpu in gpus}
    if gpus:
        versions["driver"] = gpus[0].driver
        versions["torch's CUDA"] = str(torch.version.cuda)
    versions["Python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the two builds of onnxruntime
    return versions


def _write(out: Path, facts: dict[str, Any], reports: list[Report]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {**facts, "scenarios": {each.name: each.plain() for each in reports}}
    (out / RESULTS).write_bytes(
        orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )
    page = pages.render(reports, facts)
    (out / PAGE).write_text(f"{REHEARSAL}\n\n{page}" if facts["rehearsal"] else page)


def run_blocking(check: Check, gpus: list[Gpu], say: Callable[[str], None]) -> bool:
    """`run`, on a loop of its own."""
    return asyncio.run(run(check, gpus, say))
