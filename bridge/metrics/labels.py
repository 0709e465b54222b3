"""Which values a label may have: a stranger's message must not make time series.

Enters: names, as any producer may have written them. Leaves: names of tasks that we have and of
models that Triton has, so many at most, and "unknown" or "other" for the rest. No I/O.
"""

from collections.abc import Callable, Mapping
from typing import Any

from taskiq import TaskiqMessage

from bridge.names import CANDIDATE

UNKNOWN = "unknown"
OTHER = "other"
"""For what would be one too many."""

_MOST_MODELS = 200
_MOST_VERSIONS = 20  # of a model, in the life of a process

Subject = Callable[[TaskiqMessage, Any], tuple[Any, Any]]
"""From a task's message and result, if it has one: what they call its model and its version."""


class Labels:
    """Of one process."""

    def __init__(
        self,
        is_task: Callable[[str], bool],
        is_model: Callable[[str], bool],
        subjects: Mapping[str, Subject],
    ) -> None:
        """Nothing is asked yet.

        Args:
            is_task: whether a task of this name can be run here.
            is_model: whether Triton, or its repository, has a model of this name.
            subjects: of the tasks that have to do with models, by name.
        """
        self._is_task, self._is_model, self._subjects = is_task, is_model, subjects
        self._models: dict[str, dict[str, None]] = {}
        self.serving: dict[str, str] = {}
        """The version that last answered for a model to callers who named none."""

    def task(self, name: str) -> str:
        """A task's name."""
        return name if self._is_task(name) else UNKNOWN

    def add(self, model: str) -> str:
        """A model of which it is known that it is one; candidates are not."""
        if model in self._models:
            return model
        if CANDIDATE in model:
            return UNKNOWN
        if len(self._models) >= _MOST_MODELS:
            return OTHER
        self._models[model] = {}
        return model

    def model(self, name: Any) -> str:
        """A model's name, as somebody wrote it."""
        if not isinstance(name, str):
            return UNKNOWN
        if name in self._models:
            return name
        return self.add(name) if self._is_model(name) else UNKNOWN

    def model_of(self, message: TaskiqMessage) -> str:
        """The model that a task is about; "unknown" also if it is about none."""
        subject = self._subjects.get(message.task_name)
        return UNKNOWN if subject is None else self.model(subject(message, None)[0])

    def subject(self, message: TaskiqMessage, value: Any) -> tuple[str, str]:
        """Model and version of a task that has ended with that result, or none.

        Where it has none, the version is that which answers others meanwhile.
        """
        subject = self._subjects.get(message.task_name)
        if subject is None:
            return UNKNOWN, UNKNOWN
        name, version = subject(message, value)
        model = self.model(name)
        if not isinstance(version, str):
            version = self.serving.get(model, UNKNOWN)
        return model, self.version(model, version)

    def version(self, model: str, version: str) -> str:
        """A version that Triton has named."""
        known = self._models.get(model)
        if known is None or version == UNKNOWN:
            return UNKNOWN
        if version not in known:
            if len(known) >= _MOST_VERSIONS:
                return OTHER
            known[version] = None
        return version
