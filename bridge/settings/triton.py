"""What can be set of Triton; part of `Settings`."""

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator

from bridge.settings.parts import PartSettings, folder
from bridge.settings.urls import is_port


class TritonSettings(PartSettings):
    """Where Triton and its model repository are, and how long it may take."""

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

    @field_validator("model_repository", mode="before")
    @classmethod
    def _models_folder(cls, value: Any) -> Any:
        return folder(value)

    @field_validator("triton_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if "/" in address or not host or not is_port(port):
                raise ValueError(
                    f"each address must be host:port of Triton's gRPC (8001), got {address!r}"
                )
        return value

    @property
    def triton_addresses(self) -> list[str]:
        """Triton's gRPC addresses, at least one."""
        return [address.strip() for address in self.triton_url.split(",")]
