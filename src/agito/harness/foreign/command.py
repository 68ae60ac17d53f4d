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
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from agito.errors import BadHarness
from agito.gateway import Conversations, Gateway, Terms, listening
from agito.harness.foreign import guest
from agito.harness.foreign.desk import ToolDesk
from agito.harness.role_tools import session_of
from agito.protocols import Agent, Session
from agito.render.messages import allowance
from agito.types import AttemptId, Dialect, Fault, Task, TerminationReason, Trajectory

_FUNCTION = re.compile(r"(\S+\.py):(\w+)")
_MOST_ENV_BYTES = 96_000  # of one variable; a longer task comes by standard input alone
_LOCAL = "127.0.0.1,localhost"


class CommandHarness:
    """`command`: a program with its arguments, or `path.py:function`. `seconds`: a guest's own, without those
    in which it waits. `compact`: see `Terms`.
    """

    roles = ("solo",)

    def __init__(
        self, command: str, *, folder: str = "", seconds: float = 120.0, compact: bool = False
    ) -> None:
        """Raises `BadHarness` for a program or a file that is not there."""
        self._cwd, self._seconds, self._compact = Path(folder or "."), seconds, compact
        self._argv = _argv(command, self._cwd)

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
            async with AsyncExitStack() as stack:
                url = await stack.enter_async_context(listening(gateway.app(*desk.routes(gateway))))
                conversations.on_spent(desk.over)
                ended = await guest.run(
                    self._argv,
                    cwd=self._cwd,
                    env=environment(url, key, prompt),
                    prompt=prompt,
                    over=desk.over,
                    seconds=self._seconds,
                    clock=clock,
                )
        finally:
            await conversations.aclose()
        if conversations.died is not None:
            raise conversations.died  # not this attempt's failure: the engine is gone
        return _trajectory(task, attempt, conversations, desk, ended, time.monotonic() - began)


def prompt_of(task: Task, dialect: Dialect) -> str:
    """What a guest is asked, as an episode of our own asks it."""
    said = task.prompt[dialect]
    return said if dialect is Dialect.COMPACT else f"{said}\n\n{allowance(task.limits.turns)}"


def environment(url: str, key: str, prompt: str) -> dict[str, str]:
    """Ours, and where a guest finds policy, tools and task."""
    env = dict(os.environ)
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


def _argv(command: str, cwd: Path) -> tuple[str, ...]:
    function = _FUNCTION.fullmatch(command.strip())
    if function is not None:
        path = cwd / function[1]
        if not path.is_file():
            raise BadHarness(f"harness.command={command!r}: there is no file {path}")
        return (sys.executable, str(Path(__file__).with_name("call.py")), str(path.absolute()), function[2])
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise BadHarness(f"harness.command={command!r}: {error}") from None
    if not argv:
        raise BadHarness("harness.command: name a program, such as `python my_agent.py`, or path.py:function")
    found = shutil.which(argv[0], path=None) or (str(cwd / argv[0]) if (cwd / argv[0]).is_file() else None)
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
        how = ended.why or f"it ended with exit code {ended.exit_code}"
        said = f": {ended.tail}" if ended.tail and (ended.why or ended.exit_code) else ""
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
