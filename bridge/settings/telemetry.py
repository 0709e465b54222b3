"""What can be set of logs, traces and the dashboard; part of `Settings`, the environment's reader.

OpenTelemetry's own variables are read here only as far as they say whether traces are wanted; its
SDK reads the rest of them (headers, sampler, limits, resource) by itself. Headers that it does not
understand it writes into the log, secrets or not: they are checked here before.
"""

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, field_validator

from bridge.settings.parts import PartSettings

# As OpenTelemetry's SDK takes them: a token, and what is printed, but for what ends or quotes it.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*=[^\x00-\x1f\x7f-\U0010ffff\",;\\]*")
_SURELY_SECRET = 16  # a shorter value may be a word, as a stage's name


class TelemetrySettings(PartSettings):
    """Who is told what goes on, besides `/metrics`."""

    bridge_log_format: Literal["text", "json"] = "text"
    """How workers write their log: lines for people, or one JSON object a line."""
    bridge_traces: bool | None = None
    """Whether spans are made. Unset: where OTEL_EXPORTER_OTLP_ENDPOINT says where they go."""
    otel_exporter_otlp_endpoint: SecretStr | None = None
    """OpenTelemetry's: the collector's address, `http://host:4318`."""
    otel_exporter_otlp_traces_endpoint: SecretStr | None = None
    """OpenTelemetry's: the same, with the path, for traces alone."""
    otel_exporter_otlp_headers: SecretStr | None = None
    """OpenTelemetry's: what its requests carry, mostly keys: `name=value,name=value`."""
    otel_exporter_otlp_traces_headers: SecretStr | None = None
    """OpenTelemetry's: the same, for traces alone."""
    otel_exporter_otlp_protocol: str = "http/protobuf"
    """OpenTelemetry's: gRPC, which others take for the default, is not spoken here."""
    otel_exporter_otlp_traces_protocol: str | None = None
    """OpenTelemetry's: the same, for traces alone."""
    otel_sdk_disabled: str = "false"
    """OpenTelemetry's: "true" turns everything off."""
    otel_traces_exporter: str = "otlp"
    """OpenTelemetry's: "none" turns traces off."""
    taskiq_dashboard_url: str | None = None
    """Address of a Taskiq Dashboard, `http://host:8000`. Unset: nobody is told."""
    taskiq_dashboard_token: SecretStr = SecretStr("")
    """Its access token: what it has as TASKIQ_DASHBOARD__API__TOKEN."""

    @field_validator("taskiq_dashboard_url")
    @classmethod
    def _dashboard(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme in {"http", "https"} and parts.hostname and not set("@?#") & set(value):
            return value.rstrip("/")
        raise ValueError(
            "must be http://host:port or https://..., without user and password: the token is "
            "TASKIQ_DASHBOARD_TOKEN"
        )

    @property
    def traces_wanted(self) -> bool:
        """Whether spans are to be made."""
        if self.otel_sdk_disabled.lower() == "true" or self.otel_traces_exporter == "none":
            return False
        if self.bridge_traces is not None:
            return self.bridge_traces
        return bool(self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint)

    @property
    def traces_by_grpc(self) -> bool:
        """OpenTelemetry's variables name a protocol that is not spoken here."""
        named = self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol
        return named.startswith("grpc")

    @property
    def wrong_headers(self) -> str | None:
        """The variable whose headers OpenTelemetry would not understand, and show; None: none."""
        for name in ("otel_exporter_otlp_headers", "otel_exporter_otlp_traces_headers"):
            for header in _headers(getattr(self, name)):
                if not _HEADER.fullmatch(header) or not unquote(header).isprintable():
                    return name.upper()
        return None

    @property
    def header_secrets(self) -> set[str]:
        """What must not be seen of the headers."""
        given = (self.otel_exporter_otlp_headers, self.otel_exporter_otlp_traces_headers)
        headers = {header for text in given for header in _headers(text)}
        values = {header.partition("=")[2].strip() for header in headers}
        values |= {unquote(value) for value in values}
        return headers | {value for value in values if len(value) >= _SURELY_SECRET}

    @property
    def traces_url(self) -> str | None:
        """Where spans go, with the path; None: they are not wanted, or nobody said where to."""
        if not self.traces_wanted:
            return None
        if self.otel_exporter_otlp_traces_endpoint is not None:
            return self.otel_exporter_otlp_traces_endpoint.get_secret_value()
        if self.otel_exporter_otlp_endpoint is not None:
            return f"{self.otel_exporter_otlp_endpoint.get_secret_value().rstrip('/')}/v1/traces"
        return None


def _headers(text: SecretStr | None) -> list[str]:
    parts = text.get_secret_value().split(",") if text is not None else ()
    return [part.strip() for part in parts if part.strip()]
