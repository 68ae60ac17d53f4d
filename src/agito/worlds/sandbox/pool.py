"""Where sandboxes come from: one zygote, a few sandboxes started ahead, and immutable layers on which forks
are stacked.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import anyio

from agito.errors import NotFound, SandboxFailure
from agito.protocols import SandboxSpec, WarmPython
from agito.worlds.sandbox.box import START_S, Box, Frozen
from agito.worlds.sandbox.inside import wire
from agito.worlds.sandbox.launch import HASH_SEED, Zygote, launch, stop

COPY_S = 60.0
MOST_LAYERS = 32  # of one sandbox; beyond that, its next snapshot is a full copy
COPIED_MB = 16  # workspaces up to this size are copied by forks
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_ENV = {
    "HOME": "/work",
    "USER": "agent",
    "LOGNAME": "agent",
    "SHELL": "/bin/bash",
    "LC_ALL": "C",
    "TERM": "dumb",
    "PWD": "/work",
}


class Pool:
    """Implements `SandboxPool`. Use `await Pool.open()` and `await pool.aclose()`, or `async with`."""

    def __init__(self, zygote: Zygote, warm: int, hash_seed: int = HASH_SEED) -> None:
        self.zygote = zygote
        self._hash_seed = hash_seed
        self._num_warm = warm
        self._warm: deque[Box] = deque()
        self._live: set[Box] = set()
        self._tools: dict[tuple[tuple[str, ...], str], str] = {}
        self._ready_tools: set[str] = set()  # PATHs that the zygote has made
        self._snapshots: dict[str, Frozen] = {}
        self._bases: dict[str, str] = {}
        self._uses: Counter[str] = Counter()  # of every layer, by sandboxes and snapshots
        self._num_copies = 0
        self._num_spawned = 0
        self._is_closed = False
        self._reviving = anyio.Lock()

    @classmethod
    async def open(
        cls,
        *,
        warm: int = 8,
        limit_mb: int | None = None,
        hash_seed: int = HASH_SEED,
        shown: Sequence[str] = (),
        python: WarmPython | None = None,
    ) -> Pool:
        """Keeps `warm` sandboxes started ahead. `limit_mb` limits the memory of all together; by default half
        of the machine's.

        `hash_seed` is Python's in all of them; changing it reveals programs that depend on set order.
        `shown`: folders of the host that all of them see, read-only, where `seen_at` says: an interpreter, a
        virtual environment. `python`: an interpreter whose modules are imported once, for `launch_script`;
        if that cannot be had, `cold` says why. Raises `NoIsolation`, and `NotFound` for a folder.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:  # four descriptors per sandbox
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        pool = cls(
            await launch(
                limit_bytes=limit_mb << 20 if limit_mb else None,
                hash_seed=hash_seed,
                shown=tuple(shown),
                python=python and replace(python, env={**_ENV, **python.env}),
            ),
            warm,
            hash_seed,
        )
        await pool._refill(SandboxSpec())
        return pool

    @property
    def tier(self) -> str:
        """`native+cgroup` if the kernel limits the memory of all sandboxes together; each one is watched in
        either case.
        """
        return "native+cgroup" if self.zygote.group is not None else "native+watchdog"

    @property
    def cold(self) -> str | None:
        """Why no interpreter is kept warm; None: one is."""
        is_warm = self.zygote.options["python"] is not None
        return None if is_warm else self.zygote.cold or "none was asked for"

    @property
    def num_layers(self) -> int:
        """Number of immutable layers kept by snapshots or sandboxes."""
        return len(self._uses)

    async def start(self, spec: SandboxSpec) -> Box:
        """Immediate if a warm sandbox of the same sizes exists. Raises `SandboxFailure`."""
        await self._revive()
        layers = () if spec.base is None else (await self._base(spec.base),)
        env = await self._environment(spec)
        are_tools_there = spec.tools is None or env["PATH"] in self._ready_tools
        # The zygote works in order: a sandbox spawned after the request for tools has them; a warm one may
        # not.
        box = (self._take(spec) if are_tools_there else None) or await self._spawn(spec, layers)
        await self._refill(spec)
        handed = await self._hand_out(box, spec, env, "/work")
        self._ready_tools.add(env["PATH"])
        return handed

    async def fork(self, snapshot: str) -> Box:
        """A new sandbox with the files, directory and variables of `snapshot`; processes are not carried
        over. Raises `SandboxFailure`.
        """
        await self._revive()
        frozen = self._snapshots.get(snapshot)
        if frozen is None:
            raise SandboxFailure(f"snapshot {snapshot!r}: not there, or dropped")
        box = await self._spawn(frozen.spec, frozen.layers, is_stacked=frozen.is_stacked)
        return await self._hand_out(box, frozen.spec, dict(frozen.env), frozen.cwd)

    async def drop(self, snapshot: str) -> None:
        """Forgets a snapshot. Its layer is removed with the last sandbox that uses it. Idempotent."""
        frozen = self._snapshots.pop(snapshot, None)
        if frozen is not None:
            self._release(frozen.layers)

    async def aclose(self) -> None:
        """Ends every sandbox and the zygote. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for box in list(self._live):
            box.discard("its pool is closed")
        self._warm.clear()
        await stop(self.zygote)

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def _revive(self) -> None:
        """Replaces a killed zygote. The sandboxes and snapshots of the old one are lost.

        Raises `NoIsolation`.
        """
        async with self._reviving:
            if self._is_closed or not self.zygote.is_dead:
                return
            for box in list(self._live):
                box.discard("the zygote is gone")
            for kept in (
                self._warm,
                self._tools,
                self._ready_tools,
                self._snapshots,
                self._bases,
                self._uses,
            ):
                kept.clear()
            dead = self.zygote
            with anyio.CancelScope(shield=True):
                self.zygote = replace(await launch(**dead.options), cold=dead.cold)
                await stop(dead)

    async def _spawn(
        self, spec: SandboxSpec, layers: tuple[str, ...], *, is_stacked: bool | None = None
    ) -> Box:
        if self._is_closed:
            raise SandboxFailure("this pool is closed")
        is_stacked = bool(layers) and (self._stacks(spec) if is_stacked is None else is_stacked)
        link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        link.setblocking(False)
        try:
            name = f"{self._num_spawned:x}"
            self._num_spawned += 1
            self.zygote.wake()
            await self._request(
                "spawn", name, (*_shape(spec), is_stacked), layers, descriptors=(remote.fileno(),)
            )
        except BaseException:
            link.close()
            raise
        finally:
            remote.close()
        box = Box(link, spec, layers, self._keep, partial(self._socket, name))
        box.is_stacked = is_stacked
        self._live.add(box)
        self._uses.update(layers)
        box.on_close = self._forget
        return box

    async def _request(self, *fields: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Raises `SandboxFailure` if the zygote is gone or accepts nothing."""
        with anyio.move_on_after(START_S):
            while True:
                try:
                    self.zygote.request(*fields, descriptors=descriptors)
                except BlockingIOError:
                    await anyio.wait_writable(self.zygote.control)
                except OSError as error:
                    raise SandboxFailure(f"the zygote is gone: {error}") from None
                else:
                    return
        raise SandboxFailure(f"the zygote has taken no request for {START_S:.0f} s")

    async def _hand_out(self, box: Box, spec: SandboxSpec, env: dict[str, str], cwd: str) -> Box:
        try:
            await box.ready()
        except BaseException:
            box.discard("it did not start")
            raise
        box.configure(spec, env, cwd)
        return box

    def _forget(self, box: Box) -> None:
        self._live.discard(box)
        self._release(box.layers)

    def _release(self, layers: tuple[str, ...]) -> None:
        for layer in layers:
            self._uses[layer] -= 1
            if not self._uses[layer]:
                del self._uses[layer]
                try:
                    self.zygote.request("drop", layer)
                except OSError:
                    pass  # too busy, or gone; the layer goes with the zygote

    async def _keep(self, box: Box, frozen: Frozen) -> str:
        """Copies what a frozen sandbox added to its layers, or everything if that is small or the layers are
        many, and remembers it.
        """
        adds = box.is_stacked and len(box.layers) < MOST_LAYERS
        layer, has_marks = await self._copy(box.upper if adds else box.work)
        # Marks of the episode that overlay would take for its own would change a stacked fork: it is copied
        # instead.
        is_stacked = adds or (self._stacks(frozen.spec) and not has_marks)
        frozen = replace(frozen, layers=(layer, *frozen.layers) if adds else (layer,), is_stacked=is_stacked)
        self._uses.update(frozen.layers)
        self._snapshots[layer] = frozen
        return layer

    def _stacks(self, spec: SandboxSpec) -> bool:
        """Whether forks are stacked on their snapshot. Small workspaces are copied instead, so that their
        directories list as the original's do.
        """
        return self.zygote.has_overlay and (spec.base is not None or spec.work_mb > COPIED_MB)

    async def _base(self, directory: str) -> str:
        """The layer with a copy of a host directory, made once per pool. Raises `NotFound`."""
        if directory not in self._bases:
            try:
                handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise NotFound(
                    f"base={directory!r}: {os.strerror(error.errno or 0)}; name a directory that exists"
                ) from None
            try:
                layer, _ = await self._copy(handle)
            finally:
                os.close(handle)
            self._uses[layer] += 1
            self._bases[directory] = layer
        return self._bases[directory]

    async def _copy(self, directory: int) -> tuple[str, bool]:
        """A new immutable layer with the content of the directory open at `directory`, and whether overlay
        would find marks in it.

        Raises `SandboxFailure`.
        """
        self._num_copies += 1
        layer = f"{self._num_copies:x}"
        link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with link:
            link.setblocking(False)
            with remote:
                await self._request("copy", layer, descriptors=(directory, remote.fileno()))
            with anyio.move_on_after(COPY_S):
                await anyio.wait_readable(link)
                answer = link.recv(4096)
                if len(answer) >= wire.REPLY.size and answer[4] == wire.DONE:
                    return layer, len(answer) > wire.REPLY.size
                await self._request("drop", layer)
                raise SandboxFailure(
                    "the workspace could not be copied: "
                    f"{answer[wire.REPLY.size :].decode(errors='replace') or 'the zygote is gone'}"
                )
        raise SandboxFailure(f"the workspace has not been copied for {COPY_S:.0f} s")

    async def _socket(self, name: str, kind: str, port: int) -> int:
        """A socket in the network of the sandbox `name`: a connection in progress, or a listener. Raises
        `OSError`, `SandboxFailure`.
        """
        link, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with link:
            link.setblocking(False)
            with remote:
                await self._request("socket", name, kind, port, descriptors=(remote.fileno(),))
            with anyio.move_on_after(START_S):
                await anyio.wait_readable(link)
                answer, descriptors, _, _ = socket.recv_fds(link, 4096, 1, socket.MSG_CMSG_CLOEXEC)
                if len(descriptors) == 1:
                    return descriptors[0]
                if len(answer) < wire.REPLY.size:
                    raise SandboxFailure("the zygote is gone")
                number, reason = (
                    wire.REPLY.unpack_from(answer)[4],
                    answer[wire.REPLY.size :].decode(errors="replace"),
                )
                if number:
                    raise OSError(number, f"{kind} {port}: {reason}")
                raise SandboxFailure(reason)
        raise SandboxFailure(f"no socket has been made for {START_S:.0f} s")

    def _take(self, spec: SandboxSpec) -> Box | None:
        """The oldest warm sandbox of the same sizes; others are discarded."""
        if spec.base is not None:
            return None
        while self._warm:
            box = self._warm.popleft()
            if _shape(box.spec) == _shape(spec):
                return box
            box.discard("another shape is wanted now")
        return None

    async def _refill(self, spec: SandboxSpec) -> None:
        while spec.base is None and len(self._warm) < self._num_warm:
            self._warm.append(await self._spawn(spec, ()))

    async def _environment(self, spec: SandboxSpec) -> dict[str, str]:
        path = spec.path or DEFAULT_PATH
        if spec.tools is not None:
            key = (spec.tools, path)
            name = self._tools.get(key)
            if name is None:
                name = self._tools[key] = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
                await self._request("tools", name, spec.tools, path)
            path = f"/run/tools/{name}"
        return {**_ENV, "PATH": path, "PYTHONHASHSEED": str(self._hash_seed), **spec.env}


def _shape(spec: SandboxSpec) -> tuple[float, ...]:
    """What is fixed when a sandbox starts; the rest comes with its first request."""
    return (spec.work_mb, spec.tmp_mb, spec.mem_mb, spec.procs, spec.fsize_mb, spec.cpu_s)
