"""`[harness] command`: somebody's own agent, unmodified, in a process of its own for each attempt.

It finds the policy under `OPENAI_BASE_URL` and `ANTHROPIC_BASE_URL`, with keys that hold for this attempt
only; the task in `AGITO_TASK` and on its standard input; the tools under `AGITO_TOOLS_URL` and, as an MCP
server, `AGITO_MCP_URL`. Addresses and keys die with the attempt. What a guest does not end well it has done
itself: it is graded as it stands. Not deterministic where the guest is not.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
from starlette.types import ASGIApp

from agito.errors import BadHarness
from agito.gateway import Conversations, Gateway, Terms, listening
from agito.harness.foreign import boxed, guest
from agito.harness.foreign.boxed import Boxes
from agito.harness.foreign.layout import CALL, layout, which
from agito.harness.foreign.tool_server import ToolDesk
from agito.harness.role_tools import session_of
from agito.protocols import Agent, OpensPool, Session
from agito.render.messages import prompt_of
from agito.types import AttemptId, Fault, Task, TerminationReason, Trajectory

_FUNCTION = re.compile(r"(\S+\.py):(\w+)")
_MOST_ENV_BYTES = 96_000  # of one variable; a longer task comes by standard input alone
_LOCAL = "127.0.0.1,localhost"


class CommandHarness:
    """`command`: a program with its arguments, or `path.py:function`. `seconds`: a guest's own, without those
    in which it waits. `compact`: see `Terms`. `sandbox`: opens the pool of sandboxes in which it runs;
    without, it runs as whoever trains. `files`, `shown`, `warm`: see `layout`.
    """

    roles = ("solo",)

    def __init__(
        self,
        command: str,
        *,
        folder: str = "",
        seconds: float = 120.0,
        compact: bool = False,
        sandbox: OpensPool | None = None,
        files: Sequence[str] = (),
        shown: Sequence[str] = (),
        warm: bool = True,
    ) -> None:
        """Raises `BadHarness` for a program or a file that is not there."""
        self._cwd, self._seconds, self._compact = Path(folder or "."), seconds, compact
        self._argv = _argv(command, self._cwd, shown if sandbox is not None else ())
        self._layout = self._boxes = None
        if sandbox is not None:
            common = environment(boxed.URL, "", "", {})
            common = {name: value for name, value in common.items() if value}
            self._layout = layout(self._argv, self._cwd, files=files, shown=shown, warm=warm, env=common)
            self._boxes = Boxes(self._layout, sandbox)

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        agent, began, clock = agents["solo"], time.monotonic(), guest.OwnClock()
        session = session_of(agent.spec, session)
        terms = Terms(limits=task.limits, compact=self._compact)
        conversations = Conversations(agent, seed=seed, terms=terms, waiting=clock.waiting)
        desk = ToolDesk(session, task.limits, conversations, clock.waiting)
        key = f"agito-{secrets.token_urlsafe(24)}"
        gateway = Gateway(lambda _: conversations, [agent.spec.policy], key=key, overrides=True)
        prompt = prompt_of(task, agent.spec.renderer.dialect)
        try:
            conversations.on_spent(desk.over)
            app = gateway.app(*desk.routes(gateway))
            run = self._beside if self._boxes is None else self._inside
            ended = await run(app, key, prompt, desk.over, clock)
        finally:
            await conversations.aclose()
        if conversations.died is not None:
            raise conversations.died  # not this attempt's failure: the engine is gone
        return _trajectory(task, attempt, conversations, desk, ended, time.monotonic() - began)

    async def _beside(
        self, app: ASGIApp, key: str, prompt: str, over: anyio.Event, clock: guest.OwnClock
    ) -> guest.Ended:
        """As whoever trains."""
        async with listening(app) as url:
            return await guest.run(
                self._argv,
                cwd=self._cwd,
                env=environment(url, key, prompt, os.environ),
                prompt=prompt,
                over=over,
                seconds=self._seconds,
                clock=clock,
            )

    async def _inside(
        self, app: ASGIApp, key: str, prompt: str, over: anyio.Event, clock: guest.OwnClock
    ) -> guest.Ended:
        """In a sandbox of its own."""
        assert self._boxes is not None and self._layout is not None
        env = environment(boxed.URL, key, prompt, {})
        async with (
            self._boxes.box(env, cpu_s=self._seconds) as (box, is_warm),
            boxed.serving(box, app),
        ):
            return await boxed.run(
                box,
                self._layout,
                is_warm=is_warm,
                prompt=prompt,
                over=over,
                seconds=self._seconds,
                clock=clock,
            )


def environment(url: str, key: str, prompt: str, base: Mapping[str, str]) -> dict[str, str]:
    """`base`, and where a guest finds policy, tools and task."""
    env = dict(base)
    local = ",".join(filter(None, (env.get("NO_PROXY") or env.get("no_proxy"), _LOCAL)))
    env |= {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
        "AGITO_TOOLS_URL": f"{url}/v1/tools",
        "AGITO_MCP_URL": f"{url}/mcp",
        "AGITO_KEY": key,
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "NO_PROXY": local,
        "no_proxy": local,
    }
    env.pop("ANTHROPIC_AUTH_TOKEN", None)
    if len(prompt.encode()) <= _MOST_ENV_BYTES and "\0" not in prompt:
        env["AGITO_TASK"] = prompt
    return env


def _argv(command: str, cwd: Path, shown: Sequence[str]) -> tuple[str, ...]:
    function = _FUNCTION.fullmatch(command.strip())
    if function is not None:
        path = cwd / function[1]
        if not path.is_file():
            raise BadHarness(f"harness.command={command!r}: there is no file {path}")
        return (sys.executable, str(CALL), str(path.absolute()), function[2])
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise BadHarness(f"harness.command={command!r}: {error}") from None
    if not argv:
        raise BadHarness("harness.command: name a program, such as `python my_agent.py`, or path.py:function")
    found = which(argv[0], cwd, shown)
    if argv[0] in ("python", "python3"):  # the one that trains has what is installed beside it
        found = sys.executable
    if found is None:
        raise BadHarness(f"harness.command={command!r}: there is no program {argv[0]}")
    for each in argv[1:]:
        if each.endswith(".py") and not (cwd / each).is_file():
            raise BadHarness(f"harness.command={command!r}: there is no file {cwd / each}")
    return (found, *argv[1:])


def _trajectory(
    task: Task,
    attempt: AttemptId,
    conversations: Conversations,
    desk: ToolDesk,
    ended: guest.Ended,
    wall_s: float,
) -> Trajectory:
    segments, turns = conversations.record()
    end = (
        desk.end
        or conversations.spent
        or (TerminationReason.SECONDS if ended.why else TerminationReason.ABANDONED)
    )
    fault, detail = None, conversations.tree.meter.told()
    if desk.end is None and conversations.spent is None:
        killed = "all of it was killed" if ended.exit_code is None else ""
        how = ended.why or killed or f"it ended with exit code {ended.exit_code}"
        said = f": {ended.tail}" if ended.tail and (ended.why or ended.exit_code != 0) else ""
        detail = f"the guest: {how}{said}; {detail}"
        if not turns and not desk.events:  # the policy has had no part in it
            end, fault, detail = (
                TerminationReason.FAILED,
                Fault.TASK,
                f"the guest asked for nothing: {how}{said}",
            )
    return Trajectory(
        attempt=attempt,
        task=task,
        segments=segments,
        turns=turns,
        events=tuple(desk.events),
        end=end,
        fault=fault,
        detail=detail,
        wall_s=wall_s,
    )
