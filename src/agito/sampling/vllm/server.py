"""A vLLM server that Agito starts, monitors and replaces, and the policies that sample from it.

A server is trusted until a request, an update, its process or its silence indicates otherwise. Then it is
ended, whatever `/health` says; a new one is started and receives the last publications. Running requests are
repeated as a whole: nothing of them was recorded. One that two servers did not answer is given up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from agito.concurrency import first_error
from agito.errors import RequestRefused, WorkerDied, WorkerFailed
from agito.protocols import Sampled, SampleRequest
from agito.sampling.vllm.client import VllmClient, VllmFailed
from agito.sampling.vllm.known_text import (
    BOUNDS,
    Checked,
    Difference,
    KnownLogprobs,
    WrongWeights,
    require_known,
)
from agito.sampling.vllm.process import VllmProcess
from agito.sampling.vllm.spec import BASE_NAME, VllmSpec

_UPDATE_S = 300.0  # for loading new weights
_MOST_TRIES = 2  # per request, each on another server
_UPDATE_TRIES = 2  # per publication

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version of a policy that the server samples with."""

    version: int
    name: str  # vLLM's name for it
    path: Path
    checked: Checked
    is_adapter: bool


class VllmServer:
    def __init__(self, spec: VllmSpec) -> None:
        self.spec = spec
        self.num_starts = 0
        self._process: VllmProcess | None = None
        self._ready = anyio.Event()
        self._lost = ""  # why no server will come up any more
        self._has_served = False  # else another start would fail like the first
        self._num_failed = 0  # consecutive failed starts
        self._published: dict[str, Published] = {}  # by policy
        self._users: dict[str, int] = {}  # running requests, by name
        # Old adapters that running requests still use.
        self._retired: list[str] = []
        self._turn = anyio.Lock()  # held while publishing
        self._is_swapping = False  # while replacing the server's own weights

    @property
    def process(self) -> VllmProcess | None:
        """The current server."""
        return self._process

    def version(self, policy: str) -> int | None:
        found = self._published.get(policy)
        return found.version if found else None

    async def supervise(self) -> None:
        """Runs until cancelled, or until a server fails to start too often."""
        while True:
            process = VllmProcess(self.spec)
            self.num_starts += 1
            try:
                why = await self._serve(process)
            finally:
                self._process = None
                process.gone.set()
                if self._ready.is_set():
                    self._ready = anyio.Event()
                with anyio.CancelScope(shield=True):
                    await process.end()
            self._num_failed += 1
            if self._num_failed >= self.spec.max_starts:
                self._lost = f"vLLM failed {self._num_failed} times in a row; the last: {why}"
                self._ready.set()
                return

    async def _serve(self, process: VllmProcess) -> str:
        """Serves from start until the process is no longer trusted; returns why."""
        self._retired.clear()
        try:
            await process.come_up()
            for policy, last in list(self._published.items()):
                await self._load(process, policy, last.version, last.path, last.checked.known, None)
        except (VllmFailed, WrongWeights) as error:
            return str(error)
        self._process = process
        self._has_served = True
        self._ready.set()
        return await process.watch() + process.error()

    async def sample(self, policy: str, ids: Sequence[int], request: SampleRequest, seed: int) -> Sampled:
        """Raises `ValueError` for a request that cannot be served, `RequestRefused` for one that took down
        two servers, and `WorkerDied` when no server is left."""

        async def ask(client: VllmClient, published: Published) -> Sampled:
            return await client.sample(
                ids,
                request,
                model=published.name,
                version=published.version,
                is_adapter=published.is_adapter,
                seed=seed if self.spec.is_seeded else None,
            )

        return await self._asked(policy, ask)

    async def score(self, policy: str, ids: Sequence[int]) -> Sequence[float]:
        """Raises as `sample`."""

        async def ask(client: VllmClient, published: Published) -> Sequence[float]:
            return await client.score(ids, model=published.name)

        return await self._asked(policy, ask)

    async def publish(self, policy: str, version: int, path: Path, known: KnownLogprobs) -> Difference:
        """Requests from here on are answered by this version. `path`: an adapter's folder or, without
        adapters, a safetensors file with all weights; it must stay in place while this version is the newest.

        Returns the difference between server and learner. Raises `ValueError` for a version that is not
        newer, and `WorkerFailed` when it could not be loaded or gives other log-probabilities; the server is
        then replaced and continues with the previous version.
        """
        if not path.exists():
            raise ValueError(f"{path}: there are no weights of version {version} of {policy!r}")
        async with self._turn:
            before = self._published.get(policy)
            if before is not None and version <= before.version:
                raise ValueError(
                    f"version {version} of {policy!r} comes after {before.version}: versions grow and are "
                    "never used again"
                )
            for number in range(_UPDATE_TRIES):
                process = await self._running()
                try:
                    self._published[policy] = found = await self._load(
                        process, policy, version, path, known, before
                    )
                    break
                except VllmFailed as error:
                    process.fail(str(error))
                    if number + 1 == _UPDATE_TRIES:
                        raise
                except WrongWeights as error:
                    process.fail(str(error))
                    raise
                except BaseException:
                    process.fail(f"the publication of version {version} of {policy!r} was broken off")
                    raise
                await process.gone.wait()
            else:
                raise AssertionError("the last try returns or raises")
            self._num_failed = 0
            if before is not None and found.is_adapter:
                self._retired.append(before.name)
            await self._unload_retired(process)
            return found.checked.off

    async def _load(
        self,
        process: VllmProcess,
        policy: str,
        version: int,
        path: Path,
        known: KnownLogprobs,
        before: Published | None,
    ) -> Published:
        is_adapter = self.spec.adapters is not None
        name = f"{policy}@{version}" if is_adapter else BASE_NAME
        self._is_swapping = not is_adapter
        try:
            with anyio.fail_after(_UPDATE_S):
                if is_adapter:
                    await process.client.load_adapter(name, path)
                else:
                    await process.client.load_weights(path, version)
                checked = Checked(known=known, found=await process.client.score(known.ids, model=name))
        except TimeoutError:
            raise VllmFailed(
                f"vLLM has not loaded version {version} of {policy!r} for {_UPDATE_S:.0f} s"
            ) from None
        except ValueError as error:
            raise VllmFailed(f"vLLM cannot answer with version {version} of {policy!r}: {error}") from None
        finally:
            self._is_swapping = False
        title = f"version {version} of {policy!r}"
        require_known(checked, before.checked if before else None, BOUNDS[self.spec.dtype], name=title)
        return Published(version=version, name=name, path=path, checked=checked, is_adapter=is_adapter)

    async def _running(self) -> VllmProcess:
        """Waits for a running server, for as long as the allowed starts may take."""
        with anyio.move_on_after((self.spec.start_s + _UPDATE_S) * self.spec.max_starts):
            while self._process is None and not self._lost:
                await self._ready.wait()
        if self._process is None:
            lost = self._lost or "no vLLM server has come up"
            raise WorkerDied(lost) if self._has_served else WorkerFailed(lost)
        return self._process

    async def _asked(self, policy: str, ask: Callable[[VllmClient, Published], Awaitable[Answer]]) -> Answer:
        why = ""
        for _ in range(_MOST_TRIES):
            process = await self._running()
            published = self._published.get(policy)
            if published is None:
                raise ValueError(
                    f"nothing was published for {policy!r} yet; there are {sorted(self._published)}"
                )
            self._users[published.name] = self._users.get(published.name, 0) + 1
            process.num_waiting += 1
            try:
                with anyio.fail_after(self.spec.request_s):
                    answer = await ask(process.client, published)
                if self._is_swapping:  # nobody has verified the new weights yet
                    async with self._turn:
                        pass
                if not process.failure:
                    self._num_failed = 0
                    return answer
                why = process.failure
            except TimeoutError:
                why = f"vLLM has not answered a request for {self.spec.request_s:.0f} s"
                process.fail(why)
            except VllmFailed as error:
                why = str(error)
                process.fail(why)
            finally:
                process.num_waiting -= 1
                self._users[published.name] -= 1
            await process.gone.wait()
        raise RequestRefused(f"{why}; {_MOST_TRIES} servers did not answer this request")

    async def _unload_retired(self, process: VllmProcess) -> None:
        """Unloads adapters that no request uses any more."""
        for name in [name for name in self._retired if not self._users.get(name)]:
            self._retired.remove(name)
            self._users.pop(name, None)
            try:
                await process.client.unload_adapter(name)
            except VllmFailed as error:
                process.fail(str(error))


@asynccontextmanager
async def serving(spec: VllmSpec) -> AsyncGenerator[VllmServer]:
    """A server for the duration of the block; it comes up in the background."""
    server = VllmServer(spec)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.supervise)
            yield server
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None
