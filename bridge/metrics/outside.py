"""Counts tasks that taskiq's own receiver runs: the intake only sees them go."""

from collections.abc import Container
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError

from bridge.errors import outcome_of
from bridge.observer import Observer


class OutsideTasks(TaskiqMiddleware):
    """Tells of the ends of tasks without a shortcut."""

    def __init__(self, observer: Observer, shortcuts: Container[str]) -> None:
        super().__init__()
        self._observer, self._shortcuts = observer, shortcuts
        self._ran: dict[str, TaskiqResult[Any]] = {}

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Called only by who runs a task."""
        if message.task_name not in self._shortcuts and not isinstance(result.error, NoResultError):
            self._ran[message.task_id] = result

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Called for every task that has a record; the intake tells of those that did not run."""
        # Another result: what ran failed around the task, and the intake tells of that too.
        if self._ran.pop(message.task_id, None) is result:
            took_s = result.execution_time
            self._observer.ended(message, None, outcome_of(result.error), took_s)
