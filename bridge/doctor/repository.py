"""The model repository: written by training workers, read by Triton, and the same for both."""

import asyncio
import secrets
from pathlib import Path

from bridge.doctor.findings import Finding, finding, fine
from bridge.errors import BridgeError, RestrictedError
from bridge.overview import bounded
from bridge.repository import ModelRepository
from bridge.settings import Settings
from bridge.triton_client import TritonClient

_LOOKS, _BETWEEN_S = 3, 0.3  # a network's file system shows a new folder a little later


async def check_repository(settings: Settings) -> list[Finding]:
    """MODEL_REPOSITORY: there, writable, and what each Triton reads."""
    root = settings.model_repository.resolve()
    if not root.is_dir():
        return [finding("repository-missing", str(root))]
    probe = root / f".mlbridge-doctor-{secrets.token_hex(6)}"
    try:
        probe.mkdir()
    except OSError as error:
        found = finding("repository-not-writable", f"{root}: {error.strerror}")
        return [found, *await _each(settings, root, None)]
    try:
        told = fine(f"{root} can be written")
        return [told, *await _each(settings, root, probe.name)]
    finally:
        probe.rmdir()


async def _each(settings: Settings, root: Path, probe: str | None) -> list[Finding]:
    found = []
    for address in settings.triton_addresses:
        async with TritonClient.from_settings(settings, [address]) as triton:
            try:
                missing = await _missing(triton, root, probe)
            except BridgeError as error:
                found.append(finding("not-checked", f"whether {address} reads it: {error}"))
                continue
        if missing is None:
            told = f"{address} serves what lies in {root}; for more the admin key is needed"
            found.append(fine(told))
        elif missing:
            found.append(finding("repository-elsewhere", f"{address} {missing} ({root})"))
        else:
            found.append(fine(f"{address} reads {root}"))
    return found


async def _missing(triton: TritonClient, root: Path, probe: str | None) -> str | None:
    """What one side lacks of the other; "": nothing; None: nothing that can be seen."""
    repository = ModelRepository(root)
    try:
        known = {model.name for model in await bounded(triton.index())}
        for _ in range(_LOOKS):
            if probe is None or probe in known:
                break
            await asyncio.sleep(_BETWEEN_S)
            known = {model.name for model in await bounded(triton.index())}
    except RestrictedError:
        if probe is None and not repository.models():  # as where inference workers run
            raise RestrictedError(
                f"nothing lies in {root}, and only with TRITON_ADMIN_KEY can more be asked"
            ) from None
        for each in await bounded(triton.statistics()):
            if not (root / each.name / each.version).is_dir():
                return f"serves {each.name} version {each.version}, which does not lie here"
        return None
    if probe is not None:
        return "" if probe in known else "does not see a folder that was made here"
    absent = sorted(set(repository.models()) - known)
    return f"does not know {', '.join(absent)}" if absent else ""
