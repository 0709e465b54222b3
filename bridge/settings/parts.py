"""What the settings of every part have: secrets on one line, and certificate files."""

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

from bridge.certificates import TlsFiles

Part = Literal["rabbitmq", "redis", "triton"]
PARTS: tuple[Part, ...] = ("rabbitmq", "redis", "triton")
TLS_FILES = {part: [f"{part}_{kind}_file" for kind in TlsFiles._fields] for part in PARTS}
"""The fields of each part's certificate files."""
LONGEST_S = 10**10
"""Three hundred years: what Redis counts down. Far beyond, it refuses each write, and Lua's text of
the milliseconds is no integer any more."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def folder(value: Any, takes: str = "a folder, or file:///folder") -> Any:
    """A path, also where it comes as a `file:` URL; any other URL would be a folder of that name.

    Args:
        value: as the environment has it.
        takes: what the variable may be, for who gave something else.

    Raises:
        ValueError: it is another URL.
    """
    if not isinstance(value, str):
        return value
    parts = urlsplit(value)
    if "://" not in value:
        return Path(value)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return Path(url2pathname(parts.path))
    raise ValueError(f"must be {takes}")


class PartSettings(BaseSettings):
    """What each part builds on; pydantic runs this validator before theirs."""

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """Before the parts' checks: secrets that come from files often end in a line break."""
        if not isinstance(value, SecretStr):
            return value
        text = value.get_secret_value().rstrip("\r\n")
        if _CONTROL.search(text):
            raise ValueError("holds a line break or another control character")
        return SecretStr(text)

    def tls_files(self, part: Part) -> TlsFiles:
        """The certificate files for the connection to a part."""
        return TlsFiles(*(getattr(self, name) for name in TLS_FILES[part]))
