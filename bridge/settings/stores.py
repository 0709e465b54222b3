"""What can be set of Redis and of the payload store; part of `Settings`."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator

from bridge.settings.parts import LONGEST_S, PartSettings
from bridge.settings.urls import is_clear, query_of, without_secrets


class StoreSettings(PartSettings):
    """Where results, progress and large tensors are, and for how long."""

    # Results and progress.
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    redis_ca_file: Path | None = None
    """This and the next two are for every `rediss://` URL, unless it names files of its own."""
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    bridge_result_ttl_s: int = Field(default=86_400, ge=1, le=LONGEST_S)
    """How long a result can be read, in seconds."""

    # Payloads: large tensors beside their message.
    bridge_payload_url: SecretStr | None = None
    """`file:///folder`, `s3://bucket/prefix`, `redis://...` or `rediss://...`. Unset: every tensor
    travels in its message."""
    bridge_payload_threshold_bytes: int = Field(default=2**20, ge=1)
    """A tensor with more bytes goes to the payload store."""
    bridge_payload_ttl_s: int | None = Field(default=None, ge=1, le=LONGEST_S)
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

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        known = urlsplit(url).scheme in {"redis", "rediss"} and is_clear(url)
        if known or url.startswith("unix:///"):
            return value
        raise ValueError(
            "must be redis://user:password@host:port/0, rediss://... or unix:///path, with "
            "/ ? # @ in a password percent-encoded"
        )

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
        if parts.scheme in {"redis", "rediss"} and is_clear(value.get_secret_value()):
            return value
        raise ValueError(  # the value stays out: it may hold a password
            "must be file:///folder, s3://bucket/prefix, redis://host:port/0 or rediss://..., with "
            "/ ? # @ in a password percent-encoded"
        )

    @property
    def payload_ttl_s(self) -> int:
        """How long a payload can be read, in seconds."""
        return self.bridge_payload_ttl_s or self.bridge_result_ttl_s

    @property
    def redis_connect_url(self) -> str:
        """REDIS_URL with password and certificate files: for connecting, never for showing."""
        return self._with_files(self.redis_url.get_secret_value())

    @property
    def redis_shown(self) -> str:
        """The Redis URL as a person may see it, without user and password."""
        return without_secrets(self.redis_url.get_secret_value())

    @property
    def payload_connect_url(self) -> str | None:
        """The payload store's URL, if it is set: for connecting, never for showing."""
        url = self.bridge_payload_url
        return None if url is None else self._with_files(url.get_secret_value())

    @property
    def payload_shown(self) -> str:
        """The payload store's URL as a person may see it, without user and password."""
        url = self.bridge_payload_url
        return "nowhere" if url is None else without_secrets(url.get_secret_value())

    def _with_files(self, url: str) -> str:
        """The URL with our files after its own options; redis-py takes the first of a name."""
        parts = urlsplit(url)
        if parts.scheme != "rediss":
            return url
        ours = query_of(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), self.tls_files("redis"))
        return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, ours)))))
