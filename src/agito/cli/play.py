"""`agito play`: act in an episode yourself, or watch a checkpoint act."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType

import anyio
import anyio.lowlevel
from rich.console import Console
from rich.text import Text

from agito.cli.episode import budget_text, print_event, print_task, print_verdict
from agito.cli.exit_codes import work
from agito.cli.progress import tell_loading
from agito.cli.terminal import out
from agito.cli.typed_calls import how_to_call, signature, typed_call
from agito.concurrency import Interrupted
from agito.config import build
from agito.evaluation import saved_policy
from agito.evaluation.policies import HELDOUT_BASE, STRUCTURAL_BASE
from agito.protocols import Agent, Harness, Session
from agito.recipe import Recipe
from agito.rollout import AttemptRunner, EpisodeDriver, Plan
from agito.runtime import load_policy
from agito.runtime.run_context import RunContext, environment_of, open_run_context
from agito.sampling.lockstep import Lockstep
from agito.types import (
    Attempt,
    AttemptId,
    Budget,
    Call,
    Dialect,
    Event,
    Target,
    Task,
    TerminationReason,
    Thinking,
    ToolSpec,
    Trajectory,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which task."""

    split: str
    index: int
    changes: saved_policy.Changes


def play_yourself(env: str, choice: Choice) -> None:
    recipe = choice.changes.applied_to(build(Recipe, {"env": {"name": env}}, source="play"))
    work(lambda: _yourself(recipe, choice))


def watch_checkpoint(path: Path, choice: Choice, *, temperature: float | None, pause: bool) -> None:
    directory = load_policy.find(path)
    recipe = choice.changes.applied_to(load_policy.recipe_of(directory))
    tell_loading(recipe)
    work(
        lambda: _watch(
            directory, recipe, choice, recipe.eval.temperature if temperature is None else temperature, pause
        )
    )


async def _yourself(recipe: Recipe, choice: Choice) -> None:
    console = out()
    async with open_run_context(recipe) as run_context:
        saved_policy.check(run_context.environment, recipe, choice.split)
        task, target = run_context.task(choice.split, choice.index)
        tools = [f"{signature(tool)}: {tool.description}" for tool in task.tools]
        print_task(console, task, Dialect.NATURAL, *tools, *how_to_call(task.tools))
        console.print()
        attempt = _attempt_id(choice)

        async def act(session: Session) -> Trajectory:
            events, end = await _converse(console, task, session)
            return Trajectory(
                attempt=attempt, task=task, segments=(), turns=(), events=tuple(events), end=end
            )

        finished = await EpisodeDriver(run_context.environment, noise_seed=recipe.seed).run(
            task, target, attempt, act
        )
        print_verdict(console, Attempt(trajectory=finished.trajectory, verdict=finished.verdict))


async def _converse(console: Console, task: Task, session: Session) -> tuple[list[Event], TerminationReason]:
    """Line by line to the end of the episode. A person samples no tokens, so that budget stays whole."""
    events: list[Event] = []
    limits = task.limits
    for number in range(min(limits.turns, limits.calls)):
        left = Budget(turns=limits.turns - number - 1, calls=limits.calls - number - 1, tokens=limits.tokens)
        await _let_signals_in()
        line = _ask(f"[{left.turns + 1} left] $ ")
        if line is None:
            return events, TerminationReason.ABANDONED
        (event,) = await session.act([typed_call(line, session.tools)], left)
        events.append(event)
        print_event(console, event, task.tools[0].name, with_call=False)
        if event.ended:
            return events, TerminationReason.SUBMITTED
    console.print(Text("no turns left", "yellow"))
    return events, TerminationReason.TURNS


def _ask(prompt: str) -> str | None:
    """A line from the terminal, with editing and history; None at its end. Nothing else runs meanwhile."""
    if sys.stdin.isatty():
        import_module("readline")  # which is what gives `input` its editing
    with _signals_raise():
        try:
            return input(prompt)
        except EOFError:
            print()  # noqa: T201
            return None


async def _let_signals_in() -> None:
    """What came while the world answered is heeded before the event loop stands still again."""
    for _ in range(4):
        await anyio.lowlevel.checkpoint()


@contextmanager
def _signals_raise() -> Generator[None]:
    """While the event loop stands still it cannot heed them."""

    def leave(number: int, frame: FrameType | None) -> None:
        print()  # noqa: T201
        raise Interrupted(signal.Signals(number))

    before = {
        number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _watch(directory: Path, recipe: Recipe, choice: Choice, temperature: float, pause: bool) -> None:
    console = out()
    saved_policy.check(environment_of(recipe), recipe, choice.split)
    async with load_policy.open_trained(directory, recipe) as run_context:
        task, target = run_context.task(choice.split, choice.index)
        print_task(console, task, recipe.env.dialect, f"{directory} at temperature {temperature:g}")
        console.print()
        harness = _Watched(run_context.harness, console, pause=pause and sys.stdin.isatty())
        runner = run_context.runner(temperature=temperature, harness=harness)
        effort = recipe.effort.default
        thinking = recipe.effort.thinking(effort) if effort is not None else None
        print_verdict(console, await _act(run_context, runner, task, target, _attempt_id(choice), thinking))


class _Watched:
    """A harness whose every event is printed as it happens."""

    def __init__(self, harness: Harness, console: Console, *, pause: bool) -> None:
        self._harness, self._console, self._pause = harness, console, pause

    @property
    def roles(self) -> tuple[str, ...]:
        return self._harness.roles

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        watched = _WatchedSession(session, self._console, self._pause)
        return await self._harness.run(task, watched, agents, attempt, seed=seed)


class _WatchedSession:
    def __init__(self, session: Session, console: Console, pause: bool) -> None:
        self._session, self._console, self._pause = session, console, pause

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events = await self._session.act(calls, left)
        for event in events:
            print_event(self._console, event, self.tools[0].name)
        if self._pause and not events[-1].ended:
            _ask(f"  [{budget_text(left)}; Enter goes on] ")
        return events


async def _act(
    run_context: RunContext,
    runner: AttemptRunner,
    task: Task,
    target: Target,
    attempt: AttemptId,
    thinking: Thinking | None,
) -> Attempt:
    """One attempt, alone on the first sampler."""
    lockstep = Lockstep(run_context.policies.clients(0))
    lane = lockstep.lane()
    done: list[Attempt] = []

    async def run() -> None:
        done.append(
            await runner.run(
                Plan(task=lambda _: (task, target), thinking=lambda _: thinking), attempt, lane.engines
            )
        )
        lane.finish()

    async def nothing(orders: Sequence[int]) -> None:
        return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await lockstep.run(nothing)
    return done[0]


def _attempt_id(choice: Choice) -> AttemptId:
    """As in an evaluation, so that faults fall where they fell there."""
    return AttemptId(
        group=(STRUCTURAL_BASE if choice.split == "structural" else HELDOUT_BASE) + choice.index, slot=0
    )
