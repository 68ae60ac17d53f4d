"""The engine contract holds for the fake engine, and each rule catches an engine that breaks it."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio.lowlevel
import pytest

from agito.protocols import Engine, Row, Sampled, SampleRequest
from agito.testing import EngineContract, FakeEngine, ReplayEngine, Violation
from agito.testing.engines import FakeRow
from agito.types import FinishReason, span


class FakeEngineContract(EngineContract):
    vocab_size = 32
    row_class: type[FakeRow] = FakeRow

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Engine]:
        yield EngineOf(self.row_class)

    def num_held(self, engine: Engine) -> int:
        assert isinstance(engine, EngineOf)
        return engine.num_open


class EngineOf(FakeEngine):
    def __init__(self, row_class: type[FakeRow]) -> None:
        super().__init__()
        self.row_class = row_class

    def open(self, seed: int) -> Row:
        return self.row_class(self, seed, [])


class TestTheFakeEngine(FakeEngineContract):
    pass


class Infinite(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        sampled = await super().sample(request)
        return replace(sampled, logprobs=array("f", [-math.inf]) * len(sampled.ids))


class Short(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        sampled = await super().sample(request)
        return replace(sampled, logprobs=sampled.logprobs[:-1])


class OneMore(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        return await super().sample(replace(request, max_tokens=request.max_tokens + 1))


class Lenient(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        return await super().sample(replace(request, max_tokens=max(1, request.max_tokens)))


class StopBlind(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        return replace(await super().sample(replace(request, stop_ids=())), stopped=FinishReason.LENGTH)


class DropsTheStop(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        sampled = await super().sample(request)
        if sampled.stopped is FinishReason.LENGTH:
            return sampled
        n = len(sampled.ids) - 1
        return replace(
            sampled,
            ids=sampled.ids[:n],
            logprobs=sampled.logprobs[:n],
            versions=span(0, len(request.extend) + n),
        )


COUNT = itertools.count()


class Unseeded(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        self._seed = next(COUNT)
        return await super().sample(request)


class OneSeed(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        self._seed = 0
        return await super().sample(request)


class WarmAtZero(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        return await super().sample(replace(request, temperature=request.temperature or 1.0))


class Amnesiac(FakeRow):
    """Starts each request with an empty row."""

    async def sample(self, request: SampleRequest) -> Sampled:
        self._ids = []
        return await super().sample(request)


class Truncating(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        room = self._engine.context - request.max_tokens
        return await super().sample(replace(request, extend=request.extend[-room:]))


class SpanOfSampled(FakeRow):
    async def sample(self, request: SampleRequest) -> Sampled:
        sampled = await super().sample(request)
        return replace(sampled, versions=span(0, len(sampled.ids)))


class EmptyBranch(FakeRow):
    def branch(self, seed: int) -> Row:
        return type(self)(self._engine, seed, [])


class TwinBranch(FakeRow):
    def branch(self, seed: int) -> Row:
        return type(self)(self._engine, self._seed, list(self._ids))


class Crowded(FakeRow):
    """Its tokens depend on how many rows are open."""

    async def sample(self, request: SampleRequest) -> Sampled:
        await anyio.lowlevel.checkpoint()
        self._ids.append(self._engine.num_open)
        return await super().sample(request)


class ClosesOnce(FakeRow):
    async def close(self) -> None:
        assert self._is_open
        await super().close()


class Undead(FakeRow):
    """Goes on after its end."""

    async def sample(self, request: SampleRequest) -> Sampled:
        was_open, self._is_open = self._is_open, True
        sampled = await super().sample(request)
        self._is_open = was_open
        return sampled


class BranchesInBetween(FakeRow):
    def branch(self, seed: int) -> Row:
        if not self._is_open:
            raise ValueError("closed")
        return type(self)(self._engine, seed, list(self._ids))


class NeedsAPast(FakeRow):
    def branch(self, seed: int) -> Row:
        if not self._ids:
            raise ValueError("nothing to branch from")
        return super().branch(seed)


class Narrow(FakeRow):
    """Forgets what it has seen when more than four rows are open."""

    async def sample(self, request: SampleRequest) -> Sampled:
        self._ids = [] if self._engine.num_open > 4 else self._ids
        return await super().sample(request)


class Leaking(FakeRow):
    """A row that was given up stays."""

    async def sample(self, request: SampleRequest) -> Sampled:
        try:
            return await super().sample(request)
        except BaseException:
            self._engine.num_open += 1
            raise


BROKEN: list[tuple[type[FakeRow], str]] = [
    (Infinite, "log_probabilities_are_finite_and_there_is_one_for_each_token"),
    (Short, "log_probabilities_are_finite_and_there_is_one_for_each_token"),
    (OneMore, "max_tokens_is_enforced"),
    (Lenient, "fewer_than_one_token_is_refused"),
    (StopBlind, "sampling_ends_with_the_first_stop_token"),
    (DropsTheStop, "sampling_ends_with_the_first_stop_token"),
    (Unseeded, "the_same_seed_gives_the_same_tokens"),
    (OneSeed, "different_seeds_give_different_tokens"),
    (WarmAtZero, "temperature_zero_is_greedy"),
    (Amnesiac, "a_turn_goes_on_from_the_turns_before_it"),
    (Truncating, "a_row_that_would_outgrow_the_context_is_refused"),
    (SpanOfSampled, "every_position_carries_a_version"),
    (EmptyBranch, "a_branch_shares_the_past_and_not_the_future"),
    (TwinBranch, "a_branch_shares_the_past_and_not_the_future"),
    (Crowded, "rows_side_by_side_do_not_touch_one_another"),
    (ClosesOnce, "closing_a_row_is_idempotent"),
    (Undead, "a_closed_row_is_at_an_end"),
    (BranchesInBetween, "a_row_that_samples_is_neither_branched_nor_asked_again_and_nobody_else_notices"),
    (NeedsAPast, "a_row_that_is_still_empty_can_be_branched"),
    (Narrow, "any_number_of_rows_may_rest_while_another_is_asked"),
    (Leaking, "rows_are_branched_closed_and_given_up_in_any_order"),
]


@pytest.mark.parametrize(
    ("broken", "rule"), BROKEN, ids=[f"{broken.__name__}-{rule[:30]}" for broken, rule in BROKEN]
)
def test_a_rule_catches_an_engine_that_breaks_it(broken: type[FakeRow], rule: str) -> None:
    contract = type("Broken", (FakeEngineContract,), {"row_class": broken})()
    with pytest.raises((Violation, AssertionError)) as caught:
        getattr(contract, f"test_{rule}")()
    assert broken is ClosesOnce or rule.replace("_", " ") in str(caught.value)


def test_every_rule_is_shown_to_catch_something() -> None:
    assert set(EngineContract.rules()) == {f"test_{rule}" for _, rule in BROKEN}


async def test_the_fake_engine_counts_rows_that_were_not_closed() -> None:
    engine = FakeEngine()
    row = engine.open(1)
    twin = row.branch(2)
    assert engine.num_open == 2
    for each in (row, row, twin):
        await each.close()
    assert engine.num_open == 0


async def test_the_replay_engine_says_what_it_was_given_and_keeps_what_it_was_asked() -> None:
    engine = ReplayEngine(turns=[[5, 6, 9], [7, 9]], first_version=3)
    row = engine.open(0)
    request = SampleRequest(extend=array("i", [1, 2]), max_tokens=3, stop_ids=(9,))
    first, second, third = [await row.sample(request) for _ in range(3)]
    assert (list(first.ids), first.stopped, first.versions) == ([5, 6, 9], FinishReason.END, span(3, 5))
    assert (list(second.ids), second.stopped, second.versions) == ([7, 9], FinishReason.END, span(4, 4))
    assert third.ids == second.ids
    assert list(engine.tokens()) == [1, 2, 5, 6, 9, 1, 2, 7, 9, 1, 2, 7, 9]
    cut = await row.sample(replace(request, max_tokens=1))
    assert (list(cut.ids), cut.stopped) == ([7], FinishReason.LENGTH)
