"""A whole run: scenarios one after the other on the same servers, and the report on disk.

Leaves in the folder `out`: `results.json`, `results.md`, PNG files.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bridgebench import pages
from bridgebench.findings import Report, Spread
from bridgebench.machine import PACKAGES, describe_machine, describe_versions
from bridgebench.scenarios import Options, Scenario, open_run

RESULTS = "results.json"
SCHEMA = 1


async def run_scenarios(
    scenarios: Mapping[str, Scenario],
    options: Options,
    say: Callable[[str], None],
    *,
    packages: Sequence[str] = PACKAGES,
) -> dict[str, Any]:
    """Run them, write the report, and return what `results.json` holds.

    Args:
        scenarios: by name, in order.
        options: how much of each, and where to.
        say: gets a line for people now and then.
        packages: whose versions the report names.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    content: dict[str, Any] = {}
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "repetitions": options.repetitions,
        "quick": options.quick,
        "command": " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": describe_machine(),
    }
    before = _found_before(options.out / RESULTS, facts)
    reports: list[Report] = []
    say("starting RabbitMQ, Redis and Triton")
    async with open_run(options, say) as run:
        facts["versions"] = await describe_versions(run, packages)
        for name, scenario in scenarios.items():
            say(f"{name}: {scenario.title}")
            started = time.monotonic()
            report = await scenario.measure(run)
            report.took_s = time.monotonic() - started
            reports.append(report)
            for finding in report.findings:
                say(f"  {finding.title}: {finding.value.shown(finding.unit)} {finding.verdict}")
            say(f"  took {report.took_s:.0f} s")
            facts["took_s"] = time.monotonic() - begun
            facts["machine"]["load_after"] = round(os.getloadavg()[0], 2)
            # After each, so that what is measured is kept when a later one fails.
            content = _write(options.out, facts, reports, before)
    return content


def publish(results: Path, page: Path, marks: tuple[str, str] = (pages.BEGIN, pages.END)) -> None:
    """Move the report into the docs, with what the run before found beside it."""
    folder, report = os.path.relpath(results, page.parent), results / "results.md"
    text = pages.from_elsewhere(report.read_text(), folder)
    page.write_text(pages.inserted(page.read_text(), text, marks))
    report.unlink()


def _write(
    out: Path, facts: dict[str, Any], reports: Sequence[Report], before: dict[str, str]
) -> dict[str, Any]:
    content = {**facts, "scenarios": {report.name: report.plain() for report in reports}}
    (out / RESULTS).write_bytes(
        orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )
    page = pages.render(reports, facts, before=before)
    (out / "results.md").write_text(page)
    return content


def _found_before(path: Path, facts: dict[str, Any]) -> dict[str, str]:
    """What a like run on a like machine found, by title; empty if there was none."""
    if not path.exists():
        return {}
    old = orjson.loads(path.read_bytes())
    alike = all(old.get(key) == facts[key] for key in ("schema", "quick"))
    if not alike or old["machine"]["processor"] != facts["machine"]["processor"]:
        return {}
    return {
        finding["title"]: _spread(finding["value"]).shown(finding["unit"])
        for report in old["scenarios"].values()
        for finding in report["findings"]
    }


def _spread(fields: dict[str, Any]) -> Spread:
    return Spread.of(fields["values"])
