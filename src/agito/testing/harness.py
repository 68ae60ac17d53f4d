"""The contract of harnesses: token truth, budgets, mistakes handed back, and determinism given tokens and
events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from agito.errors import SandboxFailure
from agito.protocols import Agent, AgentSpec, Harness, Renderer, Session
from agito.rollout.deadline_log import DeadlineLog
from agito.rollout.guarded_session import GuardedSession
from agito.testing.contract import Contract, require, rule
from agito.testing.engines import ReplayEngine
from agito.testing.fakes import TOOLS, FakeSession, call
from agito.testing.renderers import ByteRenderer
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    Fault,
    FinishReason,
    Limits,
    Segment,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
)

ATTEMPT = AttemptId(group=3, slot=1)
ROOMY = Limits(turns=8, calls=8, tokens=2000, turn_tokens=64)
SAID = ("open 1", "open 2", "submit 2")


class HarnessContract(Contract):
    """Subclass it, override `make`, and run pytest. The harness is driven by an engine that replays given
    tokens.
    """

    async def make(self) -> Harness:
        raise NotImplementedError("override make() to say which harness is tested")

    def spec(self) -> AgentSpec:
        """Of the agent in every role."""
        return AgentSpec(renderer=self.renderer())

    def renderer(self) -> Renderer:
        """Turns the suite's calls into tokens; bytes unless overridden."""
        return ByteRenderer(Dialect.COMPACT)

    def task(self, limits: Limits = ROOMY) -> Task:
        prompt = {Dialect.COMPACT: "find the coin", Dialect.NATURAL: "Find the coin."}
        return Task(
            id="coin-0",
            env="coin",
            split="train",
            family="coin",
            level=1,
            prompt=prompt,
            tools=TOOLS,
            limits=limits,
        )

    def say(self, *said: str) -> list[list[int]]:
        """Tokens of turns with one call each; `garbage` is a turn that no renderer can parse."""
        return [self.turn(text) for text in said]

    def turn(self, text: str) -> list[int]:
        renderer = self.renderer()
        if text == "garbage":
            return [ord("@"), ord("@"), renderer.stop_ids[0]]
        name, _, box = text.partition(" ")
        return list(renderer.action((call(name, box),), TOOLS))

    async def run(
        self, engine: ReplayEngine, session: Session | None = None, limits: Limits = ROOMY, seed: int = 1
    ) -> Trajectory:
        harness = await self.make()
        agent = Agent(spec=self.spec(), engine=engine)
        agents = dict.fromkeys(harness.roles, agent)
        return await harness.run(self.task(limits), session or FakeSession(), agents, ATTEMPT, seed=seed)

    @rule(
        "label the trajectory with the attempt and the task that were given, and end with SUBMITTED at an "
        "event that ended the episode"
    )
    async def test_a_submission_ends_the_attempt(self) -> None:
        engine = ReplayEngine(turns=self.say(*SAID, "open 3"))
        trajectory = await self.run(engine)
        require(
            trajectory.attempt == ATTEMPT and trajectory.task == self.task(), f"labelled {trajectory.attempt}"
        )
        require(
            trajectory.end is TerminationReason.SUBMITTED,
            f"the attempt ended with {trajectory.end} ({trajectory.detail})",
        )
        require(trajectory.fault is None, f"it blames {trajectory.fault}")
        require(
            len(engine.exchanges) == len(SAID),
            f"{len(engine.exchanges)} turns were sampled, though turn {len(SAID)} submitted",
        )
        require(len(trajectory.turns) == len(SAID), f"{len(trajectory.turns)} turns are recorded")

    @rule(
        "use no clock, no random state and no counter of its own; take everything from task, tokens and "
        "events"
    )
    async def test_the_same_tokens_and_events_give_the_same_trajectory(self) -> None:
        one, two = [
            await self.run(ReplayEngine(turns=self.say("open 1", "garbage", "submit 2"))) for _ in range(2)
        ]
        require(
            repr(replace(one, wall_s=0.0)) == repr(replace(two, wall_s=0.0)),
            "two runs differ in more than their wall time",
        )

    @rule("record what went to the engine and what came back, in that order, and change nothing afterwards")
    async def test_a_segment_holds_exactly_the_tokens_that_the_engine_saw(self) -> None:
        engine = ReplayEngine(turns=self.say(*SAID))
        trajectory = await self.run(engine)
        require(
            len(trajectory.segments) == engine.num_rows,
            f"{engine.num_rows} rows, {len(trajectory.segments)} segments",
        )
        for row, segment in enumerate(trajectory.segments):
            seen, kept = engine.tokens(row), segment.tokens.ids
            require(
                kept == seen,
                f"segment {segment.id} holds {len(kept)} tokens, the engine saw {len(seen)}, and they differ",
            )
        opening = self.renderer().opening(self.task())
        require(
            engine.exchanges[0].request.extend == opening,
            "the first request does not extend by the renderer's opening",
        )

    @rule("keep the engine's log-probabilities beside sampled tokens and NaN beside all others")
    async def test_sampled_positions_and_no_others_carry_log_probabilities(self) -> None:
        engine = ReplayEngine(turns=self.say(*SAID))
        trajectory = await self.run(engine)
        require(
            len(trajectory.turns) == len(engine.exchanges),
            f"{len(engine.exchanges)} requests, {len(trajectory.turns)} turns",
        )
        sampled = {segment.id: set[int]() for segment in trajectory.segments}
        tokens = {segment.id: segment.tokens for segment in trajectory.segments}
        for turn, exchange in zip(trajectory.turns, engine.exchanges, strict=True):
            kept = tokens[turn.segment]
            require(
                kept.ids[turn.start : turn.stop] == exchange.sampled.ids,
                f"positions {turn.start}-{turn.stop} are not what was sampled",
            )
            same = kept.logprobs[turn.start : turn.stop] == exchange.sampled.logprobs
            require(same, f"the log-probabilities at {turn.start}-{turn.stop} are not the engine's")
            require(
                turn.stopped is exchange.sampled.stopped,
                f"the turn says {turn.stopped}, the engine {exchange.sampled.stopped}",
            )
            sampled[turn.segment].update(range(turn.start, turn.stop))
        for segment in trajectory.segments:
            require_kinds(segment, sampled[segment.id])

    @rule("copy the engine's version spans, shifted to the segment's positions")
    async def test_every_position_carries_the_version_that_processed_it(self) -> None:
        engine = ReplayEngine(turns=self.say(*SAID), first_version=4)
        trajectory = await self.run(engine)
        expected = [
            exchange.sampled.versions[0].version
            for exchange in engine.exchanges
            for _ in range(len(exchange.request.extend) + len(exchange.sampled.ids))
        ]
        tokens: Tokens = trajectory.segments[0].tokens
        found = [tokens.version_at(position) for position in range(len(tokens))]
        require(
            found == expected,
            f"versions {sorted(set(found))} stand where {sorted(set(expected))} should, or at other "
            "positions",
        )

    @rule("append events in order, and let each turn name the events of its own calls")
    async def test_turns_name_the_events_of_their_calls(self) -> None:
        trajectory = await self.run(ReplayEngine(turns=self.say("open 1", "garbage", "submit 2")))
        require(
            [event.index for event in trajectory.events] == list(range(len(trajectory.events))),
            "events are out of order",
        )
        named = [index for turn in trajectory.turns for index in turn.calls]
        require(
            named == list(range(len(trajectory.events))),
            f"turns name the events {named} of {len(trajectory.events)}",
        )

    @rule("hand a call with a `problem` to the session like any other, show the policy the event, and go on")
    async def test_a_turn_that_cannot_be_parsed_goes_back_to_the_policy(self) -> None:
        engine = ReplayEngine(turns=self.say("garbage", "submit 2"))
        trajectory = await self.run(engine)
        require(
            trajectory.end is TerminationReason.SUBMITTED,
            f"after a turn that cannot be parsed the attempt ended with {trajectory.end}",
        )
        faults = [event.fault for event in trajectory.events]
        require(faults[:1] == [Fault.POLICY], f"the faults are {faults}")
        answered = self.renderer().observation(trajectory.events[:1])
        require(
            engine.exchanges[1].request.extend == answered,
            "the policy was not shown the event about its mistake",
        )

    @rule(
        "end with TURNS, CALLS or TOKENS when that budget is used up, without blame; the attempt is scored "
        "as it stands"
    )
    async def test_each_budget_ends_the_attempt_with_its_own_end(self) -> None:
        cases: list[tuple[TerminationReason, Limits]] = [
            (TerminationReason.TURNS, replace(ROOMY, turns=3)),
            (TerminationReason.CALLS, replace(ROOMY, calls=3)),
            (TerminationReason.TOKENS, replace(ROOMY, tokens=60)),
        ]
        for end, limits in cases:
            engine = ReplayEngine(turns=self.say("open 1"))
            session = FakeSession()
            trajectory = await self.run(engine, session, limits)
            require(
                trajectory.end is end, f"with {limits} the attempt ended with {trajectory.end}, not {end}"
            )
            require(trajectory.fault is None, f"reaching a limit blames {trajectory.fault}")
            require(
                len(engine.exchanges) <= limits.turns,
                f"{len(engine.exchanges)} turns were sampled of {limits.turns}",
            )
            require(
                session.num_events <= limits.calls, f"{session.num_events} calls were made of {limits.calls}"
            )
            longest = max(len(segment.tokens) for segment in trajectory.segments)
            require(longest <= limits.tokens, f"a segment has {longest} tokens of {limits.tokens}")

    @rule("ask the engine for at most `turn_tokens`, and go on after a turn that was cut")
    async def test_a_turn_is_cut_at_its_token_budget(self) -> None:
        engine = ReplayEngine(turns=[[ord("o")] * 200, *self.say("submit 2")])
        trajectory = await self.run(engine, limits=replace(ROOMY, turn_tokens=12))
        asked = [exchange.request.max_tokens for exchange in engine.exchanges]
        require(max(asked) <= 12, f"max_tokens={max(asked)} where a turn may have 12")
        require(
            trajectory.turns[0].stopped is FinishReason.LENGTH,
            f"the cut turn says {trajectory.turns[0].stopped}",
        )
        require(
            trajectory.end is TerminationReason.SUBMITTED,
            f"after a cut turn the attempt ended with {trajectory.end}",
        )

    @rule("pass the session what is left of each budget, never negative, never more than before")
    async def test_the_session_is_told_what_is_left(self) -> None:
        session = FakeSession()
        await self.run(ReplayEngine(turns=self.say("open 1")), session, replace(ROOMY, turns=4, calls=4))
        left = [(budget.turns, budget.calls, budget.tokens) for _, budget in session.asked]
        require(len(left) == 4, f"{len(left)} of 4 turns reached the session")
        require(left == sorted(left, reverse=True) and len(set(left)) == 4, f"what is left goes {left}")
        require(left[-1][:2] == (0, 0) and min(left[-1]) >= 0, f"after the last turn {left[-1]} is left")

    @rule(
        "return the trajectory as it stands when an event ends the episode, which is how a world that "
        "failed or ran out of time looks"
    )
    async def test_a_broken_world_ends_the_attempt_with_what_there_is(self) -> None:
        for failure in (SandboxFailure("the box is silent"), KeyError("bug")):
            engine = ReplayEngine(turns=self.say(*SAID))
            session = GuardedSession(FakeSession(failing(failure, at="2")), ROOMY, ATTEMPT, DeadlineLog())
            trajectory = await self.run(engine, session)
            where = f"after {type(failure).__name__}"
            require(
                len(trajectory.events) == 2,
                f"{where} {len(trajectory.events)} events are left of the 2 that came",
            )
            require(
                trajectory.events[-1].ended, f"{where} the last event is not the one that ended the episode"
            )
            require(
                trajectory.segments[0].tokens.ids == engine.tokens(),
                f"{where} the tokens are not those that the engine saw",
            )

    @rule("close every row that was opened, on every way out")
    async def test_no_row_is_left_open(self) -> None:
        worlds: Sequence[FakeSession] = (FakeSession(), FakeSession(failing(SandboxFailure("gone"), at="1")))
        for session in worlds:
            engine = ReplayEngine(turns=self.say(*SAID))
            await self.run(engine, session)
            require(engine.num_open == 0, f"{engine.num_open} rows are still open")


def failing(failure: Exception, *, at: str) -> Callable[[Call], str | Exception]:
    """A session's answer: `failure` for box `at`, "empty" for the others."""
    return lambda one: failure if one.arguments.get("box") == at else "empty"


def require_kinds(segment: Segment, sampled: set[int]) -> None:
    """Checks that sources and log-probabilities agree with the sampled positions."""
    tokens = segment.tokens
    for position, (kind, logprob) in enumerate(zip(tokens.kinds, tokens.logprobs, strict=True)):
        is_sampled = kind in (TokenSource.SAMPLED, TokenSource.CONTROL)
        require(
            is_sampled == (position in sampled), f"position {position} has the kind {TokenSource(kind).name}"
        )
        require(
            math.isnan(logprob) != is_sampled,
            f"position {position} ({TokenSource(kind).name}) has the log-probability {logprob}",
        )
