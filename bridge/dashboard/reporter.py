"""A taskiq middleware that notes what becomes of each task, and never waits.

Enters: tasks that are sent, begin and end, on either way: our shortcuts or taskiq's receiver.
Leaves: notes for `Sender`. The dashboard's own middleware is not used (decision 13).
"""

import logging
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from bridge.dashboard.sender import Sender
from bridge.dashboard.shown import arguments, labels, outcome
from bridge.deliveries import TellsWhatItGivesUp
from bridge.labels import BATON
from bridge.settings import Settings

logger = logging.getLogger("bridge.dashboard")

_IDS = uuid.UUID("2d6c0c5e-53b0-4f5e-8a8a-0d0e5f1c7b52")  # the namespace of ids that are no UUIDs


class DashboardReporter(TaskiqMiddleware):
    """Of one broker."""

    def __init__(self, settings: Settings, endings: TellsWhatItGivesUp, queue: str) -> None:
        """Nothing is sent before the first task.

        Args:
            settings: where the dashboard is, and its token.
            endings: also tells of tasks that it gives up unrun.
            queue: what the dashboard calls the worker, with this machine's name.
        """
        super().__init__()
        self._worker = f"{queue}@{socket.gethostname()}"
        token = settings.taskiq_dashboard_token.get_secret_value()
        self._sender = Sender(settings.taskiq_dashboard_url or "", token)
        endings.given_up.append(self.post_save)

    async def shutdown(self) -> None:
        """Send what is left, within a bound."""
        await self._sender.close()

    def post_send(self, message: TaskiqMessage) -> None:
        """The queue has a task of ours."""
        self._note(message, "queued", {"queuedAt": _now(), **self._described(message)})

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """A try begins; of a training only its first slice, so that a task's start stays."""
        if not message.labels.get(BATON):
            self._note(message, "started", {"startedAt": _now(), **self._described(message)})
        return message

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """A task has its record."""
        value, error = outcome(message, result)
        ended = {
            "finishedAt": _now(),
            "executionTime": result.execution_time,
            "error": error,
            "returnValue": {"return_value": value},
        }
        self._note(message, "executed", ended)

    def _described(self, message: TaskiqMessage) -> dict[str, Any]:
        args, kwargs = arguments(message)
        shown = labels(message)
        if _dashboard_id(message.task_id) != message.task_id:
            shown["task_id"] = message.task_id
        return {
            "args": args,
            "kwargs": kwargs,
            "labels": shown,
            "taskName": message.task_name[:200],
            "worker": self._worker,
        }

    def _note(self, message: TaskiqMessage, event: str, fields: Mapping[str, Any]) -> None:
        try:
            body = orjson.dumps(fields)
        except (TypeError, ValueError):  # a value of a kind that nobody thought of
            logger.debug("task %s cannot be shown", message.task_id, exc_info=True)
            return
        self._sender.put(_dashboard_id(message.task_id), event, body)


def _dashboard_id(task_id: str) -> str:
    """The dashboard knows UUIDs only; another id becomes one, always the same."""
    try:
        uuid.UUID(task_id)
    except ValueError:
        return str(uuid.uuid5(_IDS, task_id))
    return task_id


def _now() -> str:
    """UTC without saying so: what the dashboard takes."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat()
