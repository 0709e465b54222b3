"""One Triton server, over gRPC. With `triton_client`, the only file that speaks it.

Enters: requests, as messages of tritonclient's generated stubs, and a key. Leaves: Triton's
messages, and errors of our own tree. Knows of one server only, and remembers no model but those
whose process died. Protocol: Open Inference Protocol (KServe v2) over gRPC with Triton's
model-repository extension.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import (
    MAX_GRPC_MESSAGE_SIZE,
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)

from bridge.certificates import TlsFiles
from bridge.errors import BridgeError, ModelLoadError, RestrictedError, TritonUnavailableError
from bridge.specs import ModelSpec
from bridge.tensors import TensorSpec
from bridge.triton_errors import triton_error

ADMIN_HEADER = "triton-grpc-protocol-triton-admin-key"
"""Metadata key under which Triton expects the admin key (`--grpc-restricted-protocol`)."""

_LOAD_S = 300.0  # for a large model on a busy GPU
_LOADED_AGAIN_AFTER_S = (2.0, 5.0, 15.0, 60.0)
_QUICK_S = 10.0  # health, configuration, index: answered from memory

# Set one by one: any option given replaces tritonclient's own, which lift gRPC's 4 MB limit.
# Keepalive stays at gRPC's default, as Triton answers faster pings with GOAWAY.
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own grows to 2 minutes
]


class TritonChannel:
    """Its address, channel and stub."""

    def __init__(self, address: str, admin_key: str | None, files: TlsFiles | None) -> None:
        """Open the channel; connecting happens with the first call.

        Args:
            address: `host:port`.
            admin_key: key of the restricted model-repository protocol, if it is restricted.
            files: speak TLS, with these.
        """
        self.address = address
        self.died: dict[str, float] = {}
        """Models whose process died, and when, by the loop's clock; until they answer again."""
        self._encrypted = files is not None
        self._admin = ((ADMIN_HEADER, admin_key),) if admin_key else None
        self._channel = (
            grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
            if files is None
            else grpc.aio.secure_channel(address, _credentials(files), options=_CHANNEL_OPTIONS)
        )
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def ready(self) -> bool:
        """Whether it says so."""
        try:
            await self.check()
        except BridgeError:
            return False
        return True

    async def check(self) -> None:
        """See that it is ready.

        Raises:
            TritonError: it is not; says why.
        """
        request = service_pb2.ServerReadyRequest()
        reply = await self.told(self.stub.ServerReady(request, timeout=_QUICK_S))
        if not reply.ready:
            raise TritonUnavailableError(f"Triton at {self.address} is up, but not ready")

    async def call(
        self,
        method: Callable[..., Any],
        request: Any,
        name: str = "",
        timeout_s: float | None = None,
    ) -> Any:
        """Ask it, with the admin key.

        Args:
            method: of the stub.
            request: what that takes.
            name: of the model that it is about, for errors.
            timeout_s: after which it is given up; None: soon.

        Raises:
            TritonError: it could not be asked, or refused.
        """
        asked = method(request, timeout=timeout_s or _QUICK_S, metadata=self._admin)
        return await self.told(asked, name)

    async def load(self, name: str) -> None:
        """Load a model's newest version, or reload it.

        Raises:
            RestrictedError: the admin key is missing or wrong.
            ModelLoadError: it could not; what it served before, it still serves.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        try:
            await self.stub.RepositoryModelLoad(request, timeout=_LOAD_S, metadata=self._admin)
        except grpc.aio.AioRpcError as error:
            failure = self._translated(error, name)
            if isinstance(failure, (RestrictedError, TritonUnavailableError)):
                raise failure from None
            raise ModelLoadError(
                f"Triton at {self.address} could not load {name!r}: {error.details()}"
            ) from None

    async def unload(self, name: str, timeout_s: float | None = None) -> None:
        """Unload a model; `timeout_s` as `call` has it.

        Raises:
            TritonError: it refused.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self.call(self.stub.RepositoryModelUnload, request, name, timeout_s)

    async def reload(self, name: str) -> bool:
        """Unload and load a model that counts as ready; of an ensemble, all that it is made of.

        A load that fails, as memory is short where a process died of that, is tried again for a
        minute and a half: nobody else would bring back what was unloaded here.

        Returns:
            Whether it counted as ready.

        Raises:
            TritonError: it refused.
        """
        request = service_pb2.RepositoryIndexRequest(ready=True)
        index = await self.call(self.stub.RepositoryIndex, request, name)
        if name not in {model.name for model in index.models}:
            return False
        for part in await self._parts(name):
            await self.unload(part, _LOAD_S)
            await self._load_patiently(part)
        return True

    async def _parts(self, name: str) -> list[str]:
        """What an ensemble is made of, also through others; of any other model, itself."""
        request = service_pb2.ModelConfigRequest(name=name)
        config = (await self.call(self.stub.ModelConfig, request, name)).config
        steps = dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step)
        if not steps:
            return [name]
        return list(dict.fromkeys([part for step in steps for part in await self._parts(step)]))

    async def _load_patiently(self, name: str) -> None:
        for wait_s in _LOADED_AGAIN_AFTER_S:
            try:
                await self.load(name)
            except (ModelLoadError, TritonUnavailableError):
                await asyncio.sleep(wait_s)
            else:
                return
        await self.load(name)

    async def told(self, call: Awaitable[Any], name: str = "") -> Any:
        """What a call of the stub comes to.

        Raises:
            TritonError: our tree's word for what gRPC says.
        """
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, name) from None

    def _translated(self, error: grpc.aio.AioRpcError, name: str) -> BridgeError:
        text = error.details() or "no details"
        return triton_error(
            error.code().name, text, model=name, address=self.address, encrypted=self._encrypted
        )


def spec_from_config(config: model_config_pb2.ModelConfig) -> ModelSpec:
    """What a model takes and gives, by its configuration."""
    batch = (-1,) if config.max_batch_size > 0 else ()

    def tensor_spec(item: Any) -> TensorSpec:
        kind = model_config_pb2.DataType.Name(item.data_type).removeprefix("TYPE_")
        return TensorSpec(
            name=item.name,
            datatype="BYTES" if kind == "STRING" else kind,
            shape=(*batch, *item.dims),
            optional=getattr(item, "optional", False),
        )

    return ModelSpec(
        name=config.name,
        max_batch_size=config.max_batch_size,
        inputs={item.name: tensor_spec(item) for item in config.input},
        outputs={item.name: tensor_spec(item) for item in config.output},
        mixable=config.max_batch_size > 0 and not config.HasField("sequence_batching"),
    )


def runs_on_processors(config: model_config_pb2.ModelConfig) -> bool:
    """Whether all instances of a loaded model do: Triton has written each one's kind by then."""
    kinds = {group.kind for group in config.instance_group}
    return kinds == {model_config_pb2.ModelInstanceGroup.KIND_CPU}


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    ca, cert, key = (None if path is None else path.read_bytes() for path in files)
    return grpc.ssl_channel_credentials(ca, key, cert)
