"""Which store a URL names. The stores themselves are in `objects` and `redis`."""

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

from bridge.settings import Settings


class Store(Protocol):
    """Keeps payloads under checked keys until they expire."""

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """Keep `data`; whole or not at all.

        Raises:
            PayloadTooLargeError: the store takes no values of this size.
            PayloadStoreError: it cannot be reached, or refuses us.
        """
        ...

    async def get(self, key: str, size: int) -> bytes | memoryview | None:
        """The payload; None if it is not there.

        Args:
            key: its key.
            size: its bytes. Another size is found out before it is read.

        Raises:
            PayloadMismatchError: it has another size.
            PayloadStoreError: the store cannot be reached, or refuses us.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what is there of `keys`.

        Raises:
            PayloadStoreError: the store cannot be reached, or refuses us.
        """
        ...

    async def sweep(self, now: float) -> int:
        """Delete what had expired at `now`, in seconds since 1970; how many that were.

        Raises:
            PayloadStoreError: the store cannot be reached, or refuses us.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def open_store(settings: Settings) -> Store | None:
    """The store that the settings name, if any; not connected yet.

    Each library is loaded only for its own stores: a worker without payloads pays for none.

    Raises:
        SettingsError: the settings do not fit together.
    """
    url = settings.payload_connect_url
    if url is None:
        return None
    if urlsplit(url).scheme in {"redis", "rediss"}:
        from bridge.payloads.redis import RedisStore  # noqa: PLC0415

        return RedisStore(url, settings.payload_shown, settings.bridge_payload_timeout_s)
    from bridge.payloads.objects import open_objects  # noqa: PLC0415

    return open_objects(url, settings)
