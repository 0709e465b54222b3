"""All dashboards, by the name of their file."""

import json
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.model import model
from bridgeboards.overview import overview
from bridgeboards.queue import queue
from bridgeboards.runbook import runbook
from bridgeboards.training import training
from bridgeboards.triton import triton

_MAKERS = (overview, model, training, queue, triton, runbook)


def as_json() -> dict[str, str]:
    """The text of each file, as Grafana reads it."""
    return {f"{make.__name__}.json": _text(make()) for make in _MAKERS}


def _text(dashboard: Dashboard) -> str:
    made: dict[str, Any] = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    for number, panel in enumerate(made["panels"], start=1):
        panel["id"] = number  # the SDK numbers none, and addresses of panels should stay
    return json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
