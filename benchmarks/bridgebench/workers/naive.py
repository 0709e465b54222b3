"""The handler that a first version of such a service has: one gRPC call for each message."""

import threading
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput, InferResult


def _inputs(input_data: dict[str, Any]) -> list[InferInput]:
    inputs = []
    for name, value in input_data.items():
        array = np.asarray(value, dtype=np.float32)
        item = InferInput(name, list(array.shape), "FP32")
        item.set_data_from_numpy(array)
        inputs.append(item)
    return inputs


def _reply(result: InferResult) -> dict[str, Any]:
    response = result.get_response()
    return {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": {
            output.name: result.as_numpy(output.name).tolist() for output in response.outputs
        },
    }


class AsyncTriton:
    """tritonclient's asyncio client; connects with the first call, in the worker's own loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: tritonclient.grpc.aio.InferenceServerClient | None = None

    async def infer(self, model: str, input_data: dict[str, Any]) -> dict[str, Any]:
        """One request."""
        if self._client is None:
            self._client = tritonclient.grpc.aio.InferenceServerClient(self._address)
        return _reply(await self._client.infer(model, _inputs(input_data)))


class SyncTriton:
    """tritonclient's synchronous client, shared by the threads of a process, made after forks."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._client: tritonclient.grpc.InferenceServerClient | None = None

    def infer(self, model: str, input_data: dict[str, Any]) -> dict[str, Any]:
        """One request."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = tritonclient.grpc.InferenceServerClient(self._address)
        return _reply(self._client.infer(model, _inputs(input_data)))
