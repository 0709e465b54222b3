"""Payloads as objects in S3 and its kind, or as files in a folder. The seam to obstore.

A payload lies under `<hour of its expiry>/<key>`, hours counted from 1970: what is to be swept is
found by listing folders, not objects.
"""

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from bridge.errors import PayloadMismatchError, PayloadStoreError, SettingsError
from bridge.references import is_key, key_expires_at
from bridge.settings import Settings

if TYPE_CHECKING:  # the library has them for type checkers only
    from obstore.store import ClientConfig, RetryConfig, S3Config

logger = logging.getLogger("bridge.payloads")

_HOUR_S = 3600
_HOUR = re.compile(r"[0-9]{8}", re.ASCII)
_CHUNK_BYTES = 16 * 2**20
_MULTIPART_BYTES = 64 * 2**20  # below, one request is faster than the four of a multipart upload


class Objects:
    """Payloads in one bucket or folder."""

    def __init__(self, store: ObjectStore, shown: str, root: Path | None = None) -> None:
        """Wrap a store of obstore's.

        Args:
            store: with the prefix under which payloads lie.
            shown: its URL, as a person may see it.
            root: the folder that it is, if it is one.
        """
        self._store = store
        self._shown = shown
        self._root = root

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """As `Store.put`. In pieces, side by side, from 64 MiB."""
        with self._translated():
            await obstore.put_async(
                self._store,
                _path(key),
                data,
                use_multipart=len(data) >= _MULTIPART_BYTES,
                chunk_size=_CHUNK_BYTES,
            )

    async def get(self, key: str, size: int) -> memoryview | None:
        """As `Store.get`: looks at the size in the answer's header before it reads on."""
        try:
            with self._translated():
                answer = await obstore.get_async(self._store, _path(key))
                actual = answer.meta["size"]
                if actual == size:
                    # A view on the library's own memory: nothing is copied.
                    return memoryview(await answer.bytes_async())
        except FileNotFoundError:
            return None
        raise PayloadMismatchError(
            f"the payload should have {size:,} bytes and has {actual:,}; upload it again"
        )

    async def delete(self, keys: Sequence[str]) -> None:
        """As `Store.delete`."""
        await self._delete([_path(key) for key in keys])

    async def sweep(self, now: float) -> int:
        """As `Store.sweep`; a payload goes up to an hour after it expired."""
        with self._translated():
            listed = await obstore.list_with_delimiter_async(self._store)
        count = 0
        for folder in listed["common_prefixes"]:
            if _HOUR.fullmatch(folder) and int(folder) * _HOUR_S <= now:
                count += await self._sweep_folder(folder)
        return count

    async def close(self) -> None:
        """Nothing to close: connections end with the object."""

    async def _sweep_folder(self, folder: str) -> int:
        count = 0
        with self._translated():
            async for page in obstore.list(self._store, folder, chunk_size=1000):
                paths = [item["path"] for item in page]
                # Whatever else lies in the bucket is somebody else's.
                expired = [path for path in paths if is_key(path.removeprefix(f"{folder}/"))]
                if expired:
                    await self._delete(expired)
                count += len(expired)
        if self._root is not None:
            await asyncio.to_thread(_remove_parts, self._root / folder)
        return count

    async def _delete(self, paths: list[str]) -> None:
        """Delete together where the store can; a file that has gone must not keep the others."""
        try:
            with self._translated():
                await obstore.delete_async(self._store, paths)
        except FileNotFoundError:
            for path in paths:
                try:
                    with self._translated():
                        await obstore.delete_async(self._store, path)
                except FileNotFoundError:
                    continue

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Let FileNotFoundError through, and nothing else of the library's."""
        try:
            yield
        except (BaseError, OSError) as error:
            text = str(error)
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
                raise
            logger.debug("the payload store failed: %s", text)
            reason = text.partition("\n")[0][:200]
            advice = "check BRIDGE_PAYLOAD_URL and the store's credentials"
            if "kind: Connect" in text:
                advice = "nothing answers there: check BRIDGE_PAYLOAD_ENDPOINT"
            raise PayloadStoreError(
                f"cannot use the payload store {self._shown} ({reason}); {advice}"
            ) from None


def _remove_parts(folder: Path) -> None:
    """Delete what was being written into a folder by who was killed meanwhile.

    The library writes `KEY#1`, renames it at the end, and lists no such file. The folder goes, too,
    unless something of somebody else's is in it.
    """
    with contextlib.suppress(OSError):  # it has gone, or is not empty
        for path in folder.iterdir():
            key, part, _ = path.name.partition("#")
            if part and is_key(key):
                path.unlink(missing_ok=True)
        folder.rmdir()


def open_objects(url: str, settings: Settings) -> Objects:
    """The bucket or folder that a checked URL names.

    Raises:
        SettingsError: obstore cannot make a store of these settings.
    """
    try:
        root = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
        return Objects(_open(url, settings), settings.payload_shown, root)
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise SettingsError(
            f"cannot use BRIDGE_PAYLOAD_URL {settings.payload_shown}: {reason}"
        ) from None


def _open(url: str, settings: Settings) -> ObjectStore:
    if url.startswith("file:"):
        # Folders of hours that have become empty go with their last file.
        return LocalStore.from_url(url, automatic_cleanup=True, mkdir=True)
    return connect_s3(url, settings)


def connect_s3(
    url: str,
    settings: Settings,
    *,
    retries: int = 3,
    retry_for: timedelta = timedelta(seconds=10),
) -> S3Store:
    """A store of obstore's, with the S3 options of the settings; nothing is connected yet.

    Args:
        url: `s3://bucket/prefix`.
        settings: of endpoint, region, credentials and time.
        retries: how often a request is tried again.
        retry_for: and for how long at most.

    Raises:
        ValueError: the settings do not fit together; or obstore's BaseError, or OSError.
    """
    options: ClientConfig = {
        "allow_http": True,  # for whom an endpoint is set with http://; Amazon's is https
        "timeout": timedelta(seconds=settings.bridge_payload_timeout_s),
        "connect_timeout": timedelta(seconds=min(settings.bridge_payload_timeout_s, 5.0)),
    }
    retry: RetryConfig = {"max_retries": retries, "retry_timeout": retry_for}
    config = {
        "endpoint": settings.bridge_payload_endpoint,
        "region": settings.bridge_payload_region,
        "access_key_id": _revealed(settings.bridge_payload_access_key),
        "secret_access_key": _revealed(settings.bridge_payload_secret_key),
    }
    given = cast("S3Config", {name: value for name, value in config.items() if value is not None})
    # What is not given here, obstore takes from AWS's own environment variables.
    return S3Store.from_url(url, config=given, client_options=options, retry_config=retry)


def _revealed(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _path(key: str) -> str:
    return f"{math.ceil(key_expires_at(key) / _HOUR_S):08d}/{key}"
