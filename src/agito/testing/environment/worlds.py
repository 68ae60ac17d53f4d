"""Rules about a live world: Session, Control, faults, forks, and leaks between episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import product
from typing import cast

from agito.protocols import Control, Environment, ScriptFactory, Session
from agito.testing.contract import require, rule
from agito.testing.environment.base import EnvironmentBase
from agito.testing.episodes import act_out, budget, essence, nothing, play
from agito.types import AttemptId, Call, Event, Fault, Target, Task
from agito.worlds.component import Machine
from agito.worlds.world import World

FIRST, SECOND = AttemptId(group=1, slot=0), AttemptId(group=1, slot=1)
MARK_BYTES = 64  # for the mark of a truncated observation
BAD_CALLS = (
    Call(tool="no such tool", arguments={}, raw="no such tool"),
    Call(tool="", arguments={}, raw="@@ ((", problem="unparsable"),
)


def solution(env: Environment, task: Task, target: Target) -> ScriptFactory:
    found = env.solutions(task, target)
    require(len(found) > 0, f"{task.id} has no solution")
    return found[0]


async def refused(session: Session, task: Task) -> bool:
    """Whether acting raises RuntimeError, as it must after the end."""
    try:
        await session.act(BAD_CALLS[:1], budget(task.limits))
    except RuntimeError:
        return True
    return False


class WorldRules(EnvironmentBase):
    @rule(
        "key every random choice of the world by (noise_seed, attempt, call); use no clock and no shared "
        "generator"
    )
    async def test_the_same_calls_under_the_same_noise_get_the_same_events(self) -> None:
        async with self.environment() as first, self.environment() as second:
            for (task, key), noise in product(self.sample(first, "train"), range(self.num_noise)):
                script = solution(first, task, key)
                one = await play(first, task, key, script, FIRST, noise_seed=noise)
                two = await play(second, task, key, script, FIRST, noise_seed=noise)
                require(
                    [*map(essence, one.events)] == [*map(essence, two.events)],
                    f"{task.id} answered differently the second time",
                )
                require(
                    one.sealed.digest == two.sealed.digest,
                    f"{task.id} was left in another state the second time",
                )

    @rule(
        "number events from 0, put the call and the budget that is left into each, and cut texts at "
        "`observation_bytes`",
        says="every event is numbered, names its call, and says what is left",
    )
    async def test_every_event_is_numbered_names_its_call_and_says_what_is_left(self) -> None:
        async with self.environment() as env:
            for task, target in self.sample(env, "train"):
                for at, event in enumerate(
                    (await play(env, task, target, solution(env, task, target))).events
                ):
                    where = f"event {at} of {task.id}"
                    require(event.index == at, f"{where} has the index {event.index}")
                    require(event.left is not None, f"{where} does not say what is left")
                    size = len(event.text.encode())
                    require(size <= task.limits.observation_bytes + MARK_BYTES, f"{where} has {size} bytes")
                    require(
                        event.fault not in (Fault.TASK, Fault.ENV, Fault.INFRA),
                        f"{where} blames {event.fault}",
                    )

    @rule(
        "answer unknown tools and calls with a `problem` by an event with Fault.POLICY and a text that "
        "says what to do"
    )
    async def test_a_mistake_of_the_policy_is_an_event_that_it_can_read(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                control = await env.open(task, target, FIRST, noise_seed=0)
                wrong = [
                    *BAD_CALLS,
                    *(
                        Call(tool=tool.name, arguments={}, raw=tool.name)
                        for tool in task.tools
                        if tool.parameters.get("required")
                    ),
                ]
                for at, call in enumerate(wrong):
                    (event,) = await control.session.act((call,), budget(task.limits, at + 1))
                    require(
                        event.fault is Fault.POLICY,
                        f"{call.tool or call.raw!r} without arguments: the fault is {event.fault}",
                    )
                    require(
                        bool(event.text.strip()),
                        f"{call.tool or call.raw!r} without arguments: the policy reads nothing",
                    )
                    require(
                        event.call == call and not event.ended,
                        f"{call.tool or call.raw!r} without arguments ended the episode",
                    )
                await control.close()

    @rule("carry out calls in order, one event each, and stop after the event that ends the episode")
    async def test_several_calls_at_once_are_the_same_as_one_by_one(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                played = await play(env, task, target, solution(env, task, target), FIRST)
                calls = [event.call for event in played.events]
                control = await env.open(task, target, FIRST, noise_seed=0)
                events = await control.session.act((*calls, calls[0]), budget(task.limits))
                require(
                    len(events) == len(calls),
                    f"{task.id}: {len(calls)} calls and one after the end gave {len(events)} events",
                )
                require(
                    [e.text for e in events] == [e.text for e in played.events],
                    f"{task.id} answered differently at once",
                )
                await control.close()

    @rule("raise RuntimeError from `act` once an event has ended the episode or the world is sealed")
    async def test_nothing_can_be_done_after_the_end(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                control = await env.open(task, target, FIRST, noise_seed=0)
                events = await act_out(control.session, task.limits, solution(env, task, target))
                require(
                    bool(events) and events[-1].ended, f"the solution of {task.id} does not end its episode"
                )
                require(await refused(control.session, task), f"{task.id} accepts a call after the end")
                await control.close()
                control = await env.open(task, target, SECOND, noise_seed=0)
                await control.seal()
                require(await refused(control.session, task), f"{task.id} accepts a call after it was sealed")
                await control.close()

    @rule("remember the artifacts and return it again; let close do nothing the second time")
    async def test_sealing_and_closing_are_idempotent(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                control = await env.open(task, target, FIRST, noise_seed=0)
                first = await control.seal()
                require(first.task_id == task.id, f"the capture of {task.id} is labelled {first.task_id}")
                require(await control.seal() == first, f"{task.id} sealed twice gives two captures")
                for _ in range(2):
                    await control.close()
                require(await control.seal() == first, f"{task.id} forgets its capture when it is closed")
            await env.aclose()

    @rule("give every episode its own world; share read-only things only")
    async def test_episodes_at_the_same_time_do_not_touch_one_another(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                bystander = await env.open(task, target, SECOND, noise_seed=1)
                before = await bystander.digest()
                alone = await play(env, task, target, solution(env, task, target), FIRST)
                worlds = [await env.open(task, target, FIRST, noise_seed=0) for _ in range(2)]
                events = await in_step(worlds, task, [event.call for event in alone.events])
                for control, seen in zip(worlds, events, strict=True):
                    require(
                        [e.text for e in seen] == [e.text for e in alone.events],
                        f"{task.id} goes differently beside its twin",
                    )
                    require(
                        (await control.seal()).digest == alone.sealed.digest,
                        f"{task.id} ends differently beside its twin",
                    )
                    await control.close()
                require(
                    await bystander.digest() == before,
                    f"a world of {task.id} changed while others were acted on",
                )
                await bystander.close()

    @rule("build each world from the task and the target alone, never from what an earlier episode left")
    async def test_nothing_leaks_from_one_episode_into_the_next(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                digests: list[str] = []
                for script in (nothing(), solution(env, task, target), nothing()):
                    control = await env.open(task, target, FIRST, noise_seed=0)
                    digests.append(await control.digest())
                    await act_out(control.session, task.limits, script)
                    await control.seal()
                    await control.close()
                require(len(set(digests)) == 1, f"{task.id} begins in {len(set(digests))} different states")

    @rule(
        "hash the whole state canonically (sorted names, contents, what was submitted), and change nothing "
        "by looking",
        says="the digest tells states apart, and looking changes nothing",
    )
    async def test_the_digest_tells_states_apart_and_looking_changes_nothing(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                control = await env.open(task, target, FIRST, noise_seed=0)
                fresh = [await control.digest(), await control.digest()]
                require(fresh[0] == fresh[1], f"the digest of {task.id} changes by looking")
                await act_out(control.session, task.limits, solution(env, task, target))
                require(
                    await control.digest() != fresh[0],
                    f"the digest of {task.id} does not see that it was solved",
                )
                found = first_set(control)
                require(not found, f"{found} holds a set in {task.id}", _NO_SETS)
                await control.close()
                untouched = await play(env, task, target, nothing(), FIRST)
                solved = await play(env, task, target, solution(env, task, target), FIRST)
                require(
                    untouched.sealed.digest != solved.sealed.digest,
                    f"the captures of {task.id} solved and untouched have one digest",
                )

    @rule(
        "copy the whole state into the fork, its call counter included, and key its noise like its parent's"
    )
    async def test_a_fork_goes_on_exactly_as_the_original_does(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                script = solution(env, task, target)
                for noise in range(self.num_noise):
                    whole = (await play(env, task, target, script, FIRST, noise_seed=noise)).events
                    for cut in range(len(whole)):
                        original = await env.open(task, target, FIRST, noise_seed=noise)
                        await self.compare_fork(original, task, script, whole, cut)

    async def compare_fork(
        self, original: Control, task: Task, script: ScriptFactory, whole: tuple[Event, ...], cut: int
    ) -> None:
        """Forks after `cut` events; both must end like `whole`, and the fork must not disturb the
        original.
        """
        where = f"{task.id} forked after {cut} events"
        past = await act_out(original.session, task.limits, script, most=cut) if cut else ()
        before = await original.digest()
        snapshot = await original.snapshot()
        require(snapshot.digest == before, f"{where}: the snapshot carries another digest than the world")
        fork = await original.fork(snapshot, SECOND)
        require(await fork.digest() == before, f"{where} begins in another state")
        forked = await act_out(fork.session, task.limits, script, past=past)
        require(await original.digest() == before, f"{where}: acting in the fork changed the original")
        went_on = await act_out(original.session, task.limits, script, past=past)
        require(
            [*map(essence, forked)] == [*map(essence, went_on)],
            f"{where} sees other events than the original",
        )
        require(
            [e.text for e in went_on] == [e.text for e in whole],
            f"{where}: the snapshot changed how the original goes on",
        )
        require(
            (await fork.seal()).digest == (await original.seal()).digest,
            f"{where} ends in another state than the original",
        )
        for control in (fork, original):
            await control.close()

    @rule("draw the faults of a fork with fresh noise from its own attempt, and keep the rest of its state")
    async def test_a_fork_with_fresh_noise_can_still_be_solved(self) -> None:
        async with self.environment() as env:
            for task, target in self.one_per_family(env):
                control = await env.open(task, target, FIRST, noise_seed=0)
                fork: Control = await control.fork(await control.snapshot(), SECOND, same_noise=False)
                await act_out(fork.session, task.limits, solution(env, task, target))
                verdict = await env.grade(await fork.seal(), target, 0)
                require(
                    verdict.reward == self.full_reward,
                    f"{task.id}: the solution earns {verdict.reward} in the fork",
                )
                for world in (fork, control):
                    await world.close()


_NO_SETS = (
    "keep a list in a fixed order, or a dictionary: a set has another order in another process, so equal "
    "states get different digests and captures"
)


def first_set(control: Control) -> str:
    """The first place in the states of its machines that holds a set; empty where none does."""
    machines = (
        [each for each in control.components if isinstance(each, Machine)]
        if isinstance(control, World)
        else []
    )
    return next((found for each in machines if (found := _first_set(each.state, f"`{each.name}.state"))), "")


def _first_set(value: object, at: str) -> str:
    """What a type of its own shows in its `repr` is its own affair."""
    if isinstance(value, set | frozenset):
        return f"{at}`"
    inner: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        inner = [(f"[{key!r}]", each) for key, each in cast("Mapping[object, object]", value).items()]
    elif isinstance(value, list | tuple):
        inner = [(f"[{number}]", each) for number, each in enumerate(cast("Sequence[object]", value))]
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [(f".{each.name}", getattr(value, each.name)) for each in fields(value) if each.repr]
    return next((found for name, each in inner if (found := _first_set(each, at + name))), "")


async def in_step(worlds: list[Control], task: Task, calls: list[Call]) -> list[list[Event]]:
    """The same calls in every world, interleaved."""
    seen: list[list[Event]] = [[] for _ in worlds]
    for at, call in enumerate(calls):
        for control, events in zip(worlds, seen, strict=True):
            events.extend(await control.session.act((call,), budget(task.limits, at + 1)))
    return seen
