"""What the settings of every part have: secrets on one line, and certificate files."""

import re
from typing import Any, Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

from bridge.certificates import TlsFiles

Part = Literal["rabbitmq", "redis", "triton"]
PARTS: tuple[Part, ...] = ("rabbitmq", "redis", "triton")
TLS_FILES = {part: [f"{part}_{kind}_file" for kind in TlsFiles._fields] for part in PARTS}
"""The fields of each part's certificate files."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
