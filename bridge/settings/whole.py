"""All settings together, read from the environment.

An empty variable is an unset one. Secrets are `SecretStr`: their text never reaches a log or a
traceback.
"""

import os
import re
from typing import Self
from urllib.parse import quote, urlsplit

from pydantic import SecretStr, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict
from pydantic_settings import SettingsError as SettingsSourceError

from bridge.certificates import check_files
from bridge.errors import SettingsError
from bridge.settings.mistyped import mistyped
from bridge.settings.parts import PARTS, TLS_FILES
from bridge.settings.queue import QueueSettings
from bridge.settings.stores import StoreSettings
from bridge.settings.telemetry import TelemetrySettings
from bridge.settings.training import TrainingSettings
from bridge.settings.triton import TritonSettings


# Pydantic has the fields of the last base first, so also what it says of them.
class Settings(TritonSettings, StoreSettings, QueueSettings, TrainingSettings, TelemetrySettings):
    """Everything that can be set from outside; every variable is optional.

    A field's environment variable is its name in capitals.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    @model_validator(mode="after")
    def _tls(self) -> Self:
        """Files that can be used, and that are used: else what they protect would go in clear."""
        urls = [self.redis_url, self.bridge_payload_url or self.redis_url]
        redis_tls = any(url.get_secret_value().startswith("rediss:") for url in urls)
        used = {
            "rabbitmq": (self.rabbitmq_tls, "RABBITMQ_TLS is not true"),
            "redis": (redis_tls, "REDIS_URL does not begin with rediss://"),
            "triton": (self.triton_tls, "TRITON_TLS is not true"),
        }
        for part in PARTS:
            names, files = TLS_FILES[part], self.tls_files(part)
            given = [name.upper() for name, path in zip(names, files, strict=True) if path]
            tls, reason = used[part]
            if given and not tls:
                raise ValueError(f"{given[0]} is set, but {reason}")
            check_files(part.upper(), files)
        return self

    @property
    def secrets(self) -> set[str]:
        """Every secret text of these settings: to be covered in logs, never for showing."""
        texts = {
            value.get_secret_value()
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), SecretStr)
        }
        passwords = {urlsplit(text).password for text in texts if "://" in text}
        texts = {text for text in texts if "://" not in text} | self.header_secrets
        return texts | {quote(text, safe="") for text in texts} | {it for it in passwords if it}


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: names each variable that cannot be used, and why; or that is none, and
            which one was probably meant. Values are left out, as they may be secrets.
    """
    slips = mistyped(os.environ, {name.upper() for name in Settings.model_fields})
    if slips:
        told = "; ".join(f"{name}: did you mean {meant}?" for name, meant in slips.items())
        raise SettingsError(f"no such variable: {told}")
    try:
        return Settings()
    except SettingsSourceError as error:  # what is to be JSON is none; its text names the field
        found = re.search(r'field "(\w+)"', str(error))
        name = found[1].upper() if found else "a variable"
        raise SettingsError(
            f'cannot use the environment: {name}: must be JSON, such as {{"digits": 500}}'
        ) from None
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, item["loc"])).upper(), item["msg"])))
            for item in error.errors(include_input=False)
        )
        raise SettingsError(f"cannot use the environment: {problems}") from None
