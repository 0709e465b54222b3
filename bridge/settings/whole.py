"""The only reader of the environment.

Enters: environment variables; an empty one is an unset one. Leaves: one frozen `Settings`. Secrets
are `SecretStr`: their text never reaches a log or a traceback.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from pydantic import (
    Field,
    NonNegativeInt,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict
from pydantic_settings import SettingsError as SettingsSourceError

from bridge.certificates import TlsFiles, check_files
from bridge.errors import SettingsError
from bridge.settings.mistyped import mistyped
from bridge.settings.telemetry import TelemetrySettings
from bridge.settings.training import TrainingSettings

ExchangeType = Literal["topic", "direct", "fanout", "headers"]
QueueType = Literal["quorum", "classic"]
AmqpName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@#,/><-]{1,200}$")]
"""What RabbitMQ and its client library take as a name, with room for our own endings."""
Part = Literal["rabbitmq", "redis", "triton"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PARTS: tuple[Part, ...] = ("rabbitmq", "redis", "triton")
TLS_FILES = {part: [f"{part}_{kind}_file" for kind in TlsFiles._fields] for part in PARTS}
"""The fields of each part's certificate files."""


class Settings(TrainingSettings, TelemetrySettings):
    """Everything that can be set from outside; every variable is optional.

    A field's environment variable is its name in capitals.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True
    )

    # The queue.
    bridge_queue: Literal["rabbitmq", "redis-streams"] = "rabbitmq"
    """Where tasks wait. Redis Streams is for a machine without RabbitMQ."""
    ml_worker_count: int = Field(default=3, ge=1)
    """Inference worker processes."""
    taskiq_ml_queue: AmqpName = "taskiq_ml"
    taskiq_ml_routing_key: str = "taskiq_ml"
    taskiq_ml_exchange: AmqpName = "taskiq"
    taskiq_ml_exchange_type: ExchangeType = "topic"
    taskiq_ml_queue_type: QueueType = "quorum"
    taskiq_ml_training_queue: AmqpName = "taskiq_ml_training"
    taskiq_ml_training_routing_key: str = "taskiq_ml_training"
    bridge_prefetch: int = Field(default=256, ge=1)
    """Messages that one inference worker process may have in hand at most: waiting for a batch, in
    one, or being saved. So also its concurrency, and the bound of what a batch can gather. How
    many it takes below that follows what Triton can use."""
    bridge_batch_delay_us: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """For how long at most a batch that is not full may wait for more rows, by model, in
    microseconds: `{"digits": 500}`. By default for nothing: what gathers while the batch before
    is out is enough."""
    bridge_deadline_s: float | None = Field(default=None, gt=0)
    """Seconds after which nobody wants a task's result any more, unless its label `deadline` says
    when. They count from the AMQP timestamp, or from the delivery. Unset: never."""
    bridge_max_retries: int = Field(default=5, ge=0)
    """How often a task is tried again after an error that may pass; the label `max_retries`
    overrules it."""
    bridge_retry_first_s: float = Field(default=1.0, gt=0)
    """The longest wait before the first retry, in seconds; it doubles with each."""
    bridge_retry_longest_s: float = Field(default=60.0, gt=0)
    """The longest wait before any retry, in seconds."""
    bridge_delivery_limit: int = Field(default=20, ge=1)
    """A message that was delivered more often without an end is dead-lettered."""
    bridge_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port on which a worker pool answers `/livez` and `/readyz`; each pool of a machine needs its
    own. Unset: none."""
    bridge_metrics_host: str = "0.0.0.0"  # noqa: S104 - probes come from outside a container
    """Address on which it listens."""
    bridge_drain_timeout_s: float = Field(default=25.0, ge=0)
    """Seconds that a stopping worker may take to finish what it has in hand."""
    bridge_drain_report: Path | None = None
    """Where a worker process that stops writes how many messages it did not finish; set by
    `mlbridge worker` itself."""

    rabbitmq_host: str = "localhost"
    rabbitmq_port: int = 5672
    rabbitmq_username: str = "guest"
    rabbitmq_password: SecretStr = SecretStr("guest")
    rabbitmq_vhost: str = "/"
    rabbitmq_tls: bool = False
    rabbitmq_ca_file: Path | None = None
    rabbitmq_cert_file: Path | None = None
    rabbitmq_key_file: Path | None = None
    rabbitmq_management_url: str | None = None
    """Of RabbitMQ's management API, for `mlbridge status` and `doctor`. Unset: its default port on
    RABBITMQ_HOST."""
    bridge_worker_urls: str = ""
    """Where worker pools answer `/readyz` and `/metrics`, separated by commas, for `mlbridge
    status` and `doctor`; a host with several addresses is asked at each. Unset:
    BRIDGE_METRICS_PORT of this machine, if that is set."""

    # Results and progress.
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    redis_ca_file: Path | None = None
    """This and the next two are for every `rediss://` URL, unless it names files of its own."""
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    bridge_result_ttl_s: int = Field(default=86_400, ge=1)
    """How long a result can be read, in seconds."""

    # Payloads: large tensors beside their message.
    bridge_payload_url: SecretStr | None = None
    """`file:///folder`, `s3://bucket/prefix`, `redis://...` or `rediss://...`. Unset: every tensor
    travels in its message."""
    bridge_payload_threshold_bytes: int = Field(default=2**20, ge=1)
    """A tensor with more bytes goes to the payload store."""
    bridge_payload_ttl_s: int | None = Field(default=None, ge=1)
    """How long a payload can be read, in seconds; by default as long as a result."""
    bridge_payload_max_bytes: int = Field(default=2**31 - 1, ge=1)
    """No payload may have more; the default is what one request to Triton can carry."""
    bridge_payload_memory_bytes: int = Field(default=2**30, ge=1)
    """Fetched inputs that one worker process may hold at a time; a task waits for its share."""
    bridge_payload_timeout_s: float = Field(default=60.0, gt=0)
    """How long one payload may take to or from the store, in seconds."""
    bridge_payload_endpoint: str | None = None
    """Address of an S3-compatible store; by default AWS_ENDPOINT_URL, else Amazon's."""
    bridge_payload_region: str | None = None
    bridge_payload_access_key: SecretStr | None = None
    """S3 credentials; by default AWS's own variables, or the machine's role."""
    bridge_payload_secret_key: SecretStr | None = None
    bridge_max_message_bytes: int = Field(default=16 * 2**20, ge=1)
    """The largest message that a client sends. RabbitMQ 4 takes 16 MiB by default, 3 takes 128."""
    bridge_max_read_bytes: int = Field(default=128 * 2**20, ge=1)
    """A worker dead-letters a larger message unread."""

    # Triton.
    triton_url: str = "localhost:8001"
    """One or several gRPC addresses `host:port`, separated by commas."""
    triton_tls: bool = False
    triton_ca_file: Path | None = None
    triton_cert_file: Path | None = None
    triton_key_file: Path | None = None
    triton_admin_key: SecretStr | None = None
    """Key of Triton's restricted model-repository protocol; training workers need it."""
    bridge_infer_timeout_s: float = Field(default=60.0, gt=0)
    """How long one inference may take inside Triton, in seconds."""

    model_repository: Path = Path("model_repository")

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """Before the checks below: secrets that come from files often end in a line break."""
        if not isinstance(value, SecretStr):
            return value
        text = value.get_secret_value().rstrip("\r\n")
        if _CONTROL.search(text):
            raise ValueError("holds a line break or another control character")
        return SecretStr(text)

    @field_validator("triton_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if "/" in address or not host or not port.isdigit():
                raise ValueError(
                    f"each address must be host:port of Triton's gRPC (8001), got {address!r}"
                )
        return value

    @field_validator("rabbitmq_management_url", "bridge_worker_urls")
    @classmethod
    def _pages(cls, value: str | None) -> str | None:
        for url in filter(None, (value or "").split(",")):
            parts = urlsplit(url.strip())
            web = parts.scheme in {"http", "https"} and _is_clear(url.strip())
            if not web or "@" in parts.netloc:  # it is shown
                raise ValueError(
                    "must be http://host:port or https://..., without user or password"
                )
        return value

    @field_validator("bridge_payload_url")
    @classmethod
    def _store(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        parts = urlsplit(value.get_secret_value())
        if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
            return value
        if parts.scheme == "s3" and parts.netloc:
            return value
        if parts.scheme in {"redis", "rediss"} and _is_clear(value.get_secret_value()):
            return value
        raise ValueError(  # the value stays out: it may hold a password
            "must be file:///folder, s3://bucket/prefix, redis://host:port/0 or rediss://..., with "
            "/ ? # @ in a password percent-encoded"
        )

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        known = urlsplit(url).scheme in {"redis", "rediss"} and _is_clear(url)
        if known or url.startswith("unix:///"):
            return value
        raise ValueError(
            "must be redis://user:password@host:port/0, rediss://... or unix:///path, with "
            "/ ? # @ in a password percent-encoded"
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

    def tls_files(self, part: Part) -> TlsFiles:
        """The certificate files for the connection to a part."""
        return TlsFiles(*(getattr(self, name) for name in TLS_FILES[part]))

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

    @property
    def payload_ttl_s(self) -> int:
        """How long a payload can be read, in seconds."""
        return self.bridge_payload_ttl_s or self.bridge_result_ttl_s

    @property
    def payload_shown(self) -> str:
        """The payload store's URL as a person may see it, without user and password."""
        url = self.bridge_payload_url
        return "nowhere" if url is None else _without_secrets(url.get_secret_value())

    @property
    def triton_addresses(self) -> list[str]:
        """Triton's gRPC addresses, at least one."""
        return [address.strip() for address in self.triton_url.split(",")]

    @field_validator("rabbitmq_host")
    @classmethod
    def _host(cls, value: str) -> str:
        host = value.removeprefix("[").removesuffix("]")
        if ":" in host:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ValueError("must be a host alone; the port goes into RABBITMQ_PORT") from None
        return host

    @property
    def rabbitmq_url(self) -> str:
        """The AMQP URL, password included: for connecting, never for showing."""
        scheme = "amqps" if self.rabbitmq_tls else "amqp"
        user = quote(self.rabbitmq_username, safe="")
        password = quote(self.rabbitmq_password.get_secret_value(), safe="")
        query = _query(("cafile", "certfile", "keyfile"), self.tls_files("rabbitmq"))
        return (
            f"{scheme}://{user}:{password}@{bracketed(self.rabbitmq_host)}:{self.rabbitmq_port}"
            f"/{quote(self.rabbitmq_vhost, safe='')}{'?' + query if query else ''}"
        )

    @property
    def rabbitmq_shown(self) -> str:
        """The AMQP address as a person may see it, without the password."""
        scheme = "amqps" if self.rabbitmq_tls else "amqp"
        vhost = quote(self.rabbitmq_vhost, safe="")
        return f"{scheme}://{bracketed(self.rabbitmq_host)}:{self.rabbitmq_port}/{vhost}"

    @property
    def management_url(self) -> str:
        """Where RabbitMQ's management API is, or would be."""
        if self.rabbitmq_management_url:
            return self.rabbitmq_management_url.rstrip("/")
        host = bracketed(self.rabbitmq_host)
        return f"https://{host}:15671" if self.rabbitmq_tls else f"http://{host}:15672"

    @property
    def worker_urls(self) -> list[str]:
        """Where worker pools answer; none, if nothing says so."""
        urls = [url.strip().rstrip("/") for url in self.bridge_worker_urls.split(",")]
        if not any(urls) and self.bridge_metrics_port is not None:
            return [f"http://127.0.0.1:{self.bridge_metrics_port}"]
        return [url for url in urls if url]

    @property
    def redis_connect_url(self) -> str:
        """REDIS_URL with password and certificate files: for connecting, never for showing."""
        return self._with_files(self.redis_url.get_secret_value())

    @property
    def payload_connect_url(self) -> str | None:
        """The payload store's URL, if it is set: for connecting, never for showing."""
        url = self.bridge_payload_url
        return None if url is None else self._with_files(url.get_secret_value())

    def _with_files(self, url: str) -> str:
        """The URL with our files after its own options; redis-py takes the first of a name."""
        parts = urlsplit(url)
        if parts.scheme != "rediss":
            return url
        ours = _query(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), self.tls_files("redis"))
        return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, ours)))))

    @property
    def redis_shown(self) -> str:
        """The Redis URL as a person may see it, without user and password."""
        return _without_secrets(self.redis_url.get_secret_value())


def bracketed(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _query(names: tuple[str, str, str], files: TlsFiles) -> str:
    return urlencode({name: str(path) for name, path in zip(names, files, strict=True) if path})


def _is_clear(url: str) -> bool:
    """Whether a URL has a host, and its password ends where everybody thinks that it does."""
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.path + parts.query + parts.fragment


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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
