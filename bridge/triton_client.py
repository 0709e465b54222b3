"""Triton's inference and model-repository services, of one or several servers.

Enters: checked `Tensor`s and model names. Leaves: tensors, model specs, and errors of our own
tree. Must not know queues, tasks or messages. With `triton_channel` the only file that speaks gRPC.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from typing import Any, Self

from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, service_pb2

from bridge.certificates import TlsFiles
from bridge.errors import (
    ModelLoadError,
    TritonError,
    TritonRefusedError,
)
from bridge.observer import SILENT, Observer
from bridge.settings import Settings
from bridge.specs import InferReply, ModelSpec, ModelState
from bridge.tensors import Tensor
from bridge.tracing import tracer
from bridge.triton_channel import TritonChannel, runs_on_processors, spec_from_config
from bridge.triton_servers import TritonServers

_CACHED_SPECS = 1024
_MOST_BYTES = MAX_GRPC_MESSAGE_SIZE
_LONGEST_S = 7 * 86_400.0  # of a request; callers may write any number, and Triton takes 64 bits
_HEADER_BYTES = 64 * 1024  # names, shapes and framing, generously


class TritonClient:
    """A long-lived client of one or several Triton servers with the same models.

    Make one for each process, after any fork, and close it at the end. Inference goes to the
    server with the least in hand, and on to the next where that one is away; loading goes to each.
    """

    def __init__(
        self, addresses: list[str], admin_key: str | None = None, files: TlsFiles | None = None
    ) -> None:
        """Open the channels; connecting happens with the first call.

        Args:
            addresses: gRPC addresses, `host:port`.
            admin_key: key of the restricted model-repository protocol, if it is restricted.
            files: speak TLS, with these.
        """
        self._servers = TritonServers(addresses, admin_key, files)
        self._specs: dict[tuple[str, str], ModelSpec] = {}
        self._fetches: dict[tuple[str, str], asyncio.Task[ModelSpec]] = {}
        self.observer: Observer = SILENT

    @classmethod
    def from_settings(cls, settings: Settings, addresses: list[str] | None = None) -> Self:
        """The client that the environment asks for; of some `addresses`, if they are given."""
        key = settings.triton_admin_key
        return cls(
            addresses or settings.triton_addresses,
            key.get_secret_value() if key else None,
            settings.tls_files("triton") if settings.triton_tls else None,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every channel."""
        await self._servers.close()

    def on_crash(self, tell: Callable[[str], None]) -> None:
        """Have a function called with each model whose process died; see `reload`."""
        self._servers.on_crash = tell

    async def ready(self) -> bool:
        """Whether at least one server says that it is ready."""
        return await self._servers.ready()

    async def check(self) -> None:
        """See that every server is ready.

        Raises:
            TritonError: one is not; says why.
        """
        await self._servers.check()

    def knows(self, name: str) -> bool:
        """Whether a server has told of the model, as far as is remembered."""
        return any(name == known for known, _ in self._specs)

    async def model_spec(self, name: str, version: str = "", *, fresh: bool = False) -> ModelSpec:
        """What `name` takes and gives, from the cache unless `fresh`.

        Concurrent calls for one model share one request.

        Raises:
            UnknownModelError: Triton does not serve it.
            TritonError: any other failure.
        """
        key = (name, version)
        if not fresh and key in self._specs:
            return self._specs[key]
        if key not in self._fetches:
            fetch = self._fetch_spec(name, version)
            self._fetches[key] = asyncio.create_task(fetch, context=Context())  # many share it
            self._fetches[key].add_done_callback(partial(self._fetched, key))
        return await asyncio.shield(self._fetches[key])

    async def infer(
        self,
        name: str,
        inputs: Mapping[str, Tensor],
        *,
        version: str = "",
        timeout_s: float,
    ) -> InferReply:
        """Run one request.

        Args:
            name: the model.
            inputs: tensors by input name; the first dimension is the batch where there is one.
            version: a served version; "" for the newest.
            timeout_s: seconds until gRPC gives up and cancels the request in Triton.

        Raises:
            TritonError: the subclass says whether it is worth another try.
        """
        timeout_s = min(timeout_s, _LONGEST_S)
        # Not protobuf's ByteSize: it serialises all of the request to answer.
        size = sum(len(tensor.data) for tensor in inputs.values()) + _HEADER_BYTES
        if size > _MOST_BYTES:
            raise TritonRefusedError(
                f"the request for {name!r} is {size:,} bytes; gRPC carries {_MOST_BYTES:,}: send "
                "fewer rows at a time"
            )
        request = service_pb2.ModelInferRequest(model_name=name, model_version=version)
        # For models whose queue policy has `allow_timeout_override`: not computed when too late.
        request.parameters["timeout"].int64_param = int(timeout_s * 1e6)
        for input_name, tensor in inputs.items():
            request.inputs.add(name=input_name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(tensor.data)

        async def ask(server: TritonChannel) -> Any:
            with tracer().asking(server.address, name) as metadata:
                asked = server.stub.ModelInfer(request, timeout=timeout_s, metadata=metadata)
                answer = await server.told(asked, name)
            server.died.pop(name, None)
            return answer

        reply = await self._servers.ask_any(name, ask)
        outputs = {
            output.name: Tensor(output.datatype, tuple(output.shape), data)
            for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }
        return InferReply(reply.model_name, reply.model_version, outputs)

    async def load(self, name: str) -> None:
        """Load the model's newest version, or reload it, on every server.

        Raises:
            RestrictedError: the admin key is missing or wrong.
            ModelLoadError: a server could not load it; what it served before, it still serves.
        """
        for server in self._servers:
            try:
                await server.load(name)
            except ModelLoadError:
                self.observer.loaded(name, "refused")
                raise
        self._forget(name)
        self.observer.loaded(name, "loaded")

    async def unload(self, name: str) -> None:
        """Unload the model from every server.

        Raises:
            TritonError: a server refused.
        """
        failed: TritonError | None = None
        for server in self._servers:
            try:
                await server.unload(name)
            except TritonError as error:  # one that is away must not keep the others from it
                failed = failed or error
        self._forget(name)
        if failed is not None:
            raise failed

    async def reload(self, name: str) -> bool:
        """Unload and load a model: one whose process died does not come back by itself.

        On each server that takes it for ready, one after the other, so that the rest serves on.
        One whose load fails is tried again for some time, in which nothing else is done here.

        Returns:
            Whether there was such a server.

        Raises:
            TritonError: a server refused.
        """
        reloaded = False
        failed: TritonError | None = None
        for server in self._servers:
            try:
                reloaded |= await server.reload(name)
            except TritonError as error:
                failed = failed or error
        if reloaded:
            self.observer.loaded(name, "reloaded")
        if failed is not None:
            raise failed
        return reloaded

    async def index(self) -> list[ModelState]:
        """Every model version that a server knows of; READY, where one of them serves it.

        Raises:
            RestrictedError: the admin key is missing or wrong.
            TritonError: none of them answers.
        """
        request = service_pb2.RepositoryIndexRequest()
        found: dict[tuple[str, str], ModelState] = {}
        for reply in await self._servers.ask_each(
            lambda it: it.call(it.stub.RepositoryIndex, request)
        ):
            for m in reply.models:
                state = ModelState(m.name, m.version, m.state, m.reason)
                if state.ready or (m.name, m.version) not in found:
                    found[m.name, m.version] = state
        return list(found.values())

    async def server_version(self) -> str:
        """Triton's version, of one server: "2.51.0"."""
        server = self._servers.first
        request = service_pb2.ServerMetadataRequest()
        reply = await server.call(server.stub.ServerMetadata, request)
        return str(reply.version)

    async def config(self, name: str) -> Any:
        """The newest served version's `ModelConfig` message, of one server."""
        server = self._servers.first
        request = service_pb2.ModelConfigRequest(name=name)
        reply = await server.call(server.stub.ModelConfig, request, name)
        return reply.config

    async def on_processors(self, name: str) -> bool:
        """Whether no server has an instance of a served model on a GPU, as far as it tells.

        Raises:
            TritonError: a server does not tell.
        """
        request = service_pb2.ModelConfigRequest(name=name)
        for server in self._servers:
            reply = await server.call(server.stub.ModelConfig, request, name)
            if not runs_on_processors(reply.config):
                return False
        return True

    async def statistics(self, name: str = "") -> list[Any]:
        """`ModelStatistics` messages of every server that is there, for one model or all."""
        request = service_pb2.ModelStatisticsRequest(name=name)
        replies = await self._servers.ask_each(
            lambda it: it.call(it.stub.ModelStatistics, request, name)
        )
        return [each for reply in replies for each in reply.model_stats]

    def _fetched(self, key: tuple[str, str], fetch: asyncio.Task[ModelSpec]) -> None:
        self._fetches.pop(key, None)
        if not fetch.cancelled():
            fetch.exception()  # who asked may have gone meanwhile: asyncio need not complain

    async def _fetch_spec(self, name: str, version: str) -> ModelSpec:
        request = service_pb2.ModelConfigRequest(name=name, version=version)
        reply = await self._servers.ask_any(
            name,
            lambda server: server.call(server.stub.ModelConfig, request, name),
            limit_is_ours=True,
        )
        spec = spec_from_config(reply.config)
        if len(self._specs) >= _CACHED_SPECS:
            self._specs.clear()
        self._specs[name, version] = spec
        return spec

    def _forget(self, name: str) -> None:
        for key in [key for key in self._specs if key[0] == name]:
            del self._specs[key]
