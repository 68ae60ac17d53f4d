"""A live shell task: a real file tree in a sandbox of its own, real bash, and faults keyed by (noise, attempt, call)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from agito.protocols import Control, Sandbox, SandboxPool, SandboxSpec, Session, WorldSnapshot
from agito.types import AttemptId, Budget, Call, Event, Exactness, Fault, Json, Sealed, Task, ToolSpec

PROGRAMS = ("bash", "cat", "cp", "echo", "env", "find", "grep", "head", "ls", "mkdir", "mv", "rm", "sed", "sleep", "sort", "tail", "wc")
SLOW = ("grep -r", "./.check")  # the tools that time out now and then, never twice in a row

TOOLS = (
    ToolSpec(
        name="sh",
        description="Run a command with bash in the working directory. Directory and exported variables carry over.",
        parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    ),
    ToolSpec(
        name="submit",
        description="End the episode with this answer.",
        parameters={"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
    ),
)


class ShellSession:
    """What the harness holds. The sandbox is started by the first command, so that an answer out of hand costs nothing."""

    def __init__(self, world: ShellWorld) -> None:
        self._world = world

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return TOOLS

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events: list[Event] = []
        for call in calls:
            events.append(await self._world.act(call, left))
            if events[-1].ended:
                break
        return tuple(events)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a snapshot holds."""

    layer: str
    num_calls: int
    just_timed_out: bool
    submitted: str | None


class ShellWorld:
    """The trusted side of one shell episode."""

    def __init__(
        self, pool: SandboxPool, task: Task, tree: Mapping[str, str], data: Mapping[str, Json], attempt: AttemptId, noise_seed: int
    ) -> None:
        self._pool, self._task, self._tree, self._data = pool, task, tree, data
        self._attempt, self._noise_seed = attempt, noise_seed
        self._sandbox: Sandbox | None = None
        self._num_calls = 0
        self._just_timed_out = False
        self._submitted: str | None = None
        self._sealed: Sealed | None = None

    @property
    def session(self) -> Session:
        return ShellSession(self)

    async def act(self, call: Call, left: Budget) -> Event:
        if self._submitted is not None or self._sealed is not None:
            raise RuntimeError(f"{self._task.id}: the episode has ended; no call can follow")
        event = await self._answer(call)
        self._num_calls += 1
        return replace(event, index=self._num_calls - 1, left=left)

    async def _answer(self, call: Call) -> Event:
        if call.problem:
            return Event(index=0, call=call, text=f"error: {call.problem}", fault=Fault.POLICY)
        argument = call.arguments.get("answer" if call.tool == "submit" else "command")
        if call.tool not in ("sh", "submit") or not isinstance(argument, str):
            known = "sh with a string `command`, submit with a string `answer`"
            return Event(index=0, call=call, text=f"error: {call.tool}: the tools are {known}", fault=Fault.POLICY)
        if call.tool == "submit":
            self._submitted = argument.strip()
            return Event(index=0, call=call, text="", ended=True)
        self._just_timed_out = not self._just_timed_out and self._times_out(argument)
        if self._just_timed_out:
            return Event(index=0, call=call, text="timeout", fault=Fault.TIMEOUT)
        sandbox = await self._open()
        result = await sandbox.sh(argument, timeout_s=self._task.limits.call_seconds)
        text, cut = _clip(result.output, self._task.limits.observation_bytes)
        return Event(
            index=0, call=call, text=text, exit_code=result.exit_code, fault=result.fault,
            truncated_bytes=cut + result.total_bytes - len(result.output), wall_s=result.wall_s, cpu_s=result.cpu_s,
        )  # fmt: skip

    def _times_out(self, command: str) -> bool:
        chance = self._data["timeout"]
        assert isinstance(chance, float)
        if not command.startswith(SLOW):
            return False
        return random.Random(f"{self._noise_seed}/{self._attempt.group}.{self._attempt.slot}/{self._num_calls}").random() < chance

    async def _open(self) -> Sandbox:
        if self._sandbox is None:
            missing = self._data["missing"]
            assert isinstance(missing, list)
            spec = SandboxSpec(
                work_mb=8, tmp_mb=4, mem_mb=128, procs=32, fsize_mb=4, cpu_s=10, output_bytes=4096,
                tools=tuple(program for program in PROGRAMS if program not in missing),
            )  # fmt: skip
            self._sandbox = await self._pool.start(spec)
            await self._sandbox.write(self._tree, executable=(".check",) if ".check" in self._tree else ())
        return self._sandbox

    async def snapshot(self) -> WorldSnapshot:
        sandbox = await self._open()
        digest = await self.digest()
        layer = await sandbox.snapshot()
        state = _State(layer=layer, num_calls=self._num_calls, just_timed_out=self._just_timed_out, submitted=self._submitted)
        return WorldSnapshot(id=layer, exactness=Exactness.FILESYSTEM, digest=digest, token=state)

    async def fork(self, snapshot: WorldSnapshot, attempt: AttemptId, *, same_noise: bool = True) -> Control:
        state = snapshot.token
        assert isinstance(state, _State)
        child = ShellWorld(self._pool, self._task, self._tree, self._data, self._attempt if same_noise else attempt, self._noise_seed)
        child._sandbox = await self._pool.fork(state.layer)
        child._num_calls, child._just_timed_out, child._submitted = state.num_calls, state.just_timed_out, state.submitted
        return child

    async def digest(self) -> str:
        files = await self._sandbox.files() if self._sandbox else {path: text.encode() for path, text in self._tree.items()}
        return _digest(self._task.id, files, self._submitted)

    async def seal(self) -> Sealed:
        if self._sealed is None:
            files: dict[str, bytes] = {}
            if self._task.family == "repair":  # a found value leaves no artefact
                files = await self._files()
            await self.close()
            self._sealed = Sealed(
                task_id=self._task.id, submitted=self._submitted, files=files, digest=_digest(self._task.id, files, self._submitted)
            )
        return self._sealed

    async def _files(self) -> dict[str, bytes]:
        """As they are now that nothing runs; as they were made where no command has touched them."""
        if self._sandbox is None:
            return {path: text.encode() for path, text in self._tree.items()}
        await self._sandbox.kill()
        with suppress(ValueError):  # the policy filled it, or made a tree that cannot be read: it has no artefacts then
            return await self._sandbox.files(limit_bytes=1 << 18)
        return {}

    async def close(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()


def _clip(output: bytes, limit_bytes: int) -> tuple[str, int]:
    """Head and tail of an output, and how many bytes are not shown."""
    if len(output) <= limit_bytes:
        return output.decode("utf-8", "replace"), 0
    half = limit_bytes // 2
    cut = len(output) - 2 * half
    return output[:half].decode("utf-8", "replace") + "\n...\n" + output[-half:].decode("utf-8", "replace"), cut


def _digest(task_id: str, files: Mapping[str, bytes], submitted: str | None) -> str:
    state = {"task": task_id, "submitted": submitted, "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]
