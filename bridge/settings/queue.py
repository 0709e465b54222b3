"""What can be set of the queue, RabbitMQ and the workers that serve it; part of `Settings`."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, NonNegativeInt, SecretStr, StringConstraints, field_validator

from bridge.settings.parts import PartSettings
from bridge.settings.urls import bracketed, is_clear, query_of

ExchangeType = Literal["topic", "direct", "fanout", "headers"]
QueueType = Literal["quorum", "classic"]
AmqpName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@#,/><-]{1,200}$")]
"""What RabbitMQ and its client library take as a name, with room for our own endings."""
_SERVICE_PORT = re.compile(r"tcp://.+:(\d+)")

_ALL_ADDRESSES = {"", "0.0.0.0", "::"}  # noqa: S104 - only compared


class QueueSettings(PartSettings):
    """Where tasks wait, and how much of them a worker takes."""

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
    bridge_prefetch: int = Field(default=256, ge=1, le=65535)
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
    rabbitmq_port: int = Field(default=5672, ge=1, le=65535)
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

    @field_validator("rabbitmq_port", mode="before")
    @classmethod
    def _port(cls, value: Any) -> Any:
        """Of Kubernetes, where a service is named `rabbitmq`: `tcp://10.0.0.7:5672`."""
        found = _SERVICE_PORT.fullmatch(str(value))
        return found[1] if found else value

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

    @field_validator("rabbitmq_management_url", "bridge_worker_urls")
    @classmethod
    def _pages(cls, value: str | None) -> str | None:
        for url in filter(None, (value or "").split(",")):
            parts = urlsplit(url.strip())
            web = parts.scheme in {"http", "https"} and is_clear(url.strip())
            if not web or "@" in parts.netloc:  # it is shown
                raise ValueError(
                    "must be http://host:port or https://..., without user or password"
                )
        return value

    @property
    def rabbitmq_url(self) -> str:
        """The AMQP URL, password included: for connecting, never for showing."""
        scheme = "amqps" if self.rabbitmq_tls else "amqp"
        user = quote(self.rabbitmq_username, safe="")
        password = quote(self.rabbitmq_password.get_secret_value(), safe="")
        query = query_of(("cafile", "certfile", "keyfile"), self.tls_files("rabbitmq"))
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
            host = self.bridge_metrics_host
            here = "127.0.0.1" if host in _ALL_ADDRESSES else bracketed(host)
            return [f"http://{here}:{self.bridge_metrics_port}"]
        return [url for url in urls if url]
