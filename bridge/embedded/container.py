"""Triton as the one process of a container: `python -P -m bridge.embedded.container`.

Enters: MODEL_REPOSITORY and TRITON_ADMIN_KEY. Leaves: nothing, as this process becomes Triton, on
all addresses of the container. Nothing is cleaned up behind it: the container goes with its files.
"""

import asyncio
import os
import sys

from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.errors import BridgeError, SettingsError
from bridge.settings import load_settings

GRPC_PORT, HTTP_PORT, METRICS_PORT = 8001, 8000, 8002
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what is reachable from outside is the engine's business


def main() -> None:
    """Become Triton, which serves the model repository until SIGTERM.

    Raises:
        BridgeError: it cannot run here, or TRITON_ADMIN_KEY is missing; the text says what to do.
    """
    settings = load_settings()
    if settings.triton_admin_key is None or not settings.triton_admin_key.get_secret_value():
        raise SettingsError(
            "TRITON_ADMIN_KEY is not set: whoever reaches Triton could load models, which may be "
            "code. Choose one and give it to Triton and to training workers only"
        )
    state = StateFolder()
    state.path.mkdir(mode=0o700)  # not opened: no keeper watches, as nothing outlives Triton
    triton = TritonServer(
        state,
        settings.model_repository,
        ports=(GRPC_PORT, HTTP_PORT, METRICS_PORT),
        host=_ANY_ADDRESS,
        admin_key=settings.triton_admin_key.get_secret_value(),
        traces_url=settings.traces_url,
    )
    command, environment = asyncio.run(triton.prepare())
    os.execve(command[0], command, environment)  # noqa: S606 - the program of the installed wheel


if __name__ == "__main__":
    try:
        main()
    except BridgeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
