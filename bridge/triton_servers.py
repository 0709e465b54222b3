"""Several Triton servers as one: which of them is asked, and what it means where one is silent.

Enters: a question to ask of one server. Leaves: an answer, or an error of our own tree. Must not
know what is asked.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from bridge.certificates import TlsFiles
from bridge.errors import (
    BackendCrashedError,
    BridgeError,
    InferenceTimeoutError,
    ModelUnavailableError,
    TritonBusyError,
    TritonError,
    TritonUnavailableError,
    UnknownModelError,
)
from bridge.replicas import Replicas
from bridge.triton_channel import TritonChannel
from bridge.triton_errors import verdict

_DEAD_S = 10.0  # a model that died is taken for dead until it answers, or for so long
# Another server may have what this one lacks. Not so a crash: it may be the request's own doing.
_ELSEWHERE = (TritonUnavailableError, UnknownModelError, ModelUnavailableError, TritonBusyError)


class TritonServers:
    """Those of one client, with the same models: the least busy is asked first."""

    def __init__(self, addresses: list[str], admin_key: str | None, files: TlsFiles | None) -> None:
        """Arguments as those of `TritonClient`."""
        servers = [TritonChannel(address, admin_key, files) for address in addresses]
        self._servers = Replicas(servers, TritonChannel.ready)
        self.on_crash: Callable[[str], None] = lambda _name: None
        """Called with a model whose process died."""

    def __iter__(self) -> Iterator[TritonChannel]:
        return iter(self._servers)

    @property
    def first(self) -> TritonChannel:
        """The one that would be asked first."""
        return self._servers.candidates()[0]

    async def close(self) -> None:
        """Close every channel."""
        await self._servers.close()
        for server in self:
            await server.close()

    async def ready(self) -> bool:
        """Whether at least one server says that it is ready."""
        answers = await asyncio.gather(*(server.ready() for server in self))
        return any(answers)

    async def check(self) -> None:
        """See that every server is ready.

        Raises:
            TritonError: one is not; says why.
        """
        for server in self:
            await server.check()

    async def ask_any(
        self, name: str, call: Callable[[TritonChannel], Any], *, limit_is_ours: bool = False
    ) -> Any:
        """Call the least busy server; where it is away or lacks the model, the next one.

        Who does not answer within a limit of ours, not the caller's, is away.

        That is safe to repeat: inference changes nothing in a server.
        """
        failures: list[BridgeError] = []
        for server in self._servers.candidates():
            try:
                started = asyncio.get_running_loop().time()
                with self._servers.busy(server):
                    answer = await call(server)
            except TritonError as error:
                if limit_is_ours and isinstance(error, InferenceTimeoutError):
                    error = TritonUnavailableError(
                        f"Triton at {server.address} is silent; check TRITON_URL"
                    )
                failures.append(await self._meant(server, name, error, started))
                if not isinstance(failures[-1], _ELSEWHERE):
                    break
            else:
                return answer
        if not failures:
            raise TritonUnavailableError("no Triton address is given")
        try:
            raise verdict(failures)
        finally:
            failures.clear()  # see `_meant`: raised, it has frames again

    async def ask_each(self, call: Callable[[TritonChannel], Any]) -> list[Any]:
        """The answers of the servers that are there; at least one is, or it raises."""
        answers: list[Any] = []
        away: TritonError = TritonUnavailableError("no Triton address is given")
        for server in self:
            try:
                answers.append(await call(server))
            except (TritonUnavailableError, InferenceTimeoutError) as error:
                away = error
        if not answers:
            raise away
        return answers

    async def _meant(
        self, server: TritonChannel, name: str, error: BridgeError, started: float
    ) -> BridgeError:
        """What it means that a server did not answer; one that is away is asked last from now."""
        if isinstance(error, ModelUnavailableError) and not await server.ready():
            # A server that is ending unloads its models first.
            error = TritonUnavailableError(f"Triton at {server.address} is stopping")
        if isinstance(error, TritonUnavailableError):
            self._servers.take_out(server)
        elif isinstance(error, BackendCrashedError):
            error = self._crashed(server, name, error, started)
        # Its frames hold the request; kept with them by one of these, it would hold itself, until
        # the collector comes.
        return error.with_traceback(None)

    def _crashed(
        self, server: TritonChannel, name: str, failure: BridgeError, started: float
    ) -> BridgeError:
        """Who was there when the model died may have killed it; who came later found it dead."""
        self.on_crash(name)
        now = asyncio.get_running_loop().time()
        died = server.died.get(name)
        if died is None or now > died + _DEAD_S:
            died = server.died[name] = now
        if started < died:
            return failure
        return ModelUnavailableError(f"{failure}; it is to be loaded again")
