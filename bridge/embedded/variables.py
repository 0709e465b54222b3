"""Settings as variables, for a process that is to have them."""

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bridge.settings import TLS_FILES, Part, Settings


def no_files(part: Part) -> dict[str, None]:
    """What we start speaks no TLS: it listens on loopback only."""
    return dict.fromkeys(TLS_FILES[part])


def absolute(settings: Settings) -> Settings:
    """The same with no relative path: what we start works in folders of its own."""
    paths = {name: it for name, it in settings if isinstance(it, Path)}
    return settings.model_copy(update={name: path.absolute() for name, path in paths.items()})


def as_variables(settings: Settings) -> dict[str, str]:
    """Every setting as a variable, but Triton's admin key, which only training workers get."""
    values = settings.model_dump(exclude_none=True, exclude={"triton_admin_key"})
    # Written out as empty, so that they overrule what the environment says.
    files = {name.upper(): "" for names in TLS_FILES.values() for name in names}
    return files | {name.upper(): _as_variable(value) for name, value in values.items()}


def _as_variable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
