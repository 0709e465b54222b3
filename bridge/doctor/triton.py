"""Triton: reachability, key, version; several servers against one another."""

import asyncio
from dataclasses import dataclass

from bridge.doctor.findings import Finding, finding, fine
from bridge.doctor.versions import TESTED_TRITON
from bridge.errors import BridgeError, ModelLoadError, RestrictedError
from bridge.overview import bounded
from bridge.settings import Settings
from bridge.triton_client import TritonClient

_NOBODY = "mlbridge-doctor-no-such-model"
_NOT_EXPLICIT = "not allowed"  # Triton's words where it loads by itself


@dataclass(frozen=True, slots=True)
class _Seen:
    """One server."""

    address: str
    version: str
    models: frozenset[tuple[str, str]]
    findings: list[Finding]


async def check_triton(settings: Settings) -> list[Finding]:
    """Each server of TRITON_URL, and whether they are alike."""
    seen = await asyncio.gather(*(_look(settings, each) for each in settings.triton_addresses))
    found = [each for server in seen for each in server.findings]
    up = [server for server in seen if server.version]
    if len({(server.version, server.models) for server in up}) > 1:
        told = "; ".join(
            f"{server.address}: {server.version}, "
            + (", ".join(f"{name} {number}" for name, number in sorted(server.models)) or "nothing")
            for server in up
        )
        found.append(finding("triton-servers-differ", told))
    return found


async def _look(settings: Settings, address: str) -> _Seen:
    key = settings.triton_admin_key
    async with (
        TritonClient.from_settings(settings, [address]) as triton,
        TritonClient.from_settings(
            settings.model_copy(update={"triton_admin_key": None}), [address]
        ) as stranger,
    ):
        try:
            await bounded(triton.check())
            version = await bounded(triton.server_version())
            served = frozenset((each.name, each.version) for each in await triton.statistics())
        except BridgeError as error:
            unavailable = finding("triton-unavailable", f"{address}: {error}")
            return _Seen(address, "", frozenset(), [unavailable])
        found = [_judged(address, version)]
        if await _loads(stranger):
            found.append(finding("repository-open", f"{address} loads models without a key"))
        elif key is None:
            found.append(finding("admin-key-missing", address))
        else:
            found.append(await _with_key(triton, address))
    return _Seen(address, version, served, found)


def _judged(address: str, version: str) -> Finding:
    told = f"Triton {version} at {address}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return finding("triton-untested", told) if numbers < TESTED_TRITON else fine(told)


async def _loads(stranger: TritonClient) -> bool:
    """Whether who has no key may load: asked with a model that nobody has."""
    try:
        await bounded(stranger.load(_NOBODY))
    except RestrictedError:
        return False
    except ModelLoadError as error:
        return _NOT_EXPLICIT not in str(error)
    except BridgeError:
        return False
    return True


async def _with_key(triton: TritonClient, address: str) -> Finding:
    try:
        await bounded(triton.index())
    except RestrictedError as error:
        return finding("admin-key-refused", str(error))
    return fine(f"{address} takes TRITON_ADMIN_KEY, and asks for it")
