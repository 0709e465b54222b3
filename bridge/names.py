"""Names that come from messages and become folders, keys or models.

Enters: any value. Leaves: the same string, once it is known to be harmless. Knows nothing of
what the name is for. A task's id may hold more than a name: it becomes a key, never a path.
"""

import re
import reprlib
from typing import Any

from bridge.errors import InvalidNameError

CANDIDATE = ".candidate-"
"""Between a model's name and a token: a model that is only tried."""

DEAD_LETTERS = ".dead_letter"
"""What the name of a queue of dead letters has more than its queue's."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
# Printable, and outside of the names that we and taskiq-redis keep for other things.
_TASK_ID = re.compile(r"(?!bridge:|autoclaim:)[\x21-\x7e]{1,256}(?<!__progress)", re.ASCII)


def check_name(kind: str, value: Any) -> str:
    """Return `value` if it can be a model's, dataset's or task's name.

    Args:
        kind: what the name is for, as the error shall call it ("model_id").
        value: anything a message may hold.

    Raises:
        InvalidNameError: not a string of 1 to 128 of `A-Z a-z 0-9 . _ -` that begins with a
            letter or digit. Such a name holds no path separator and no parent folder.
    """
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise InvalidNameError(
        f"{kind} must be 1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-', beginning "
        f"with a letter or digit; got {reprlib.repr(value)}"
    )


def is_task_id(value: str) -> bool:
    """Whether workers take a task with this id, whoever chose it: see `check_task_id`."""
    return _TASK_ID.fullmatch(value) is not None


def check_task_id(value: Any) -> str:
    """Return `value` if it can be a task's id. Nobody may make a path of it: it may hold `/`.

    Raises:
        InvalidNameError: not a string of 1 to 256 printable ASCII characters without spaces, or
            the name of a key that is not a result.
    """
    if isinstance(value, str) and is_task_id(value):
        return value
    raise InvalidNameError(
        "a task's id must be 1 to 256 printable ASCII characters without spaces, not beginning "
        "with 'bridge:' or 'autoclaim:' and not ending with '__progress'; got "
        f"{reprlib.repr(value)}"
    )
