"""Engines get equal loads, whatever cells their groups come from."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.sampling.engine_assignment import Balance
from agito.types import AttemptId

COSTS = {"brief": 60, "long": 900}  # tokens of an attempt, by family


def play(
    engines: int,
    family_of: Callable[[int], str],
    *,
    groups: int = 400,
    live: int = 24,
    size: int = 4,
    seed: int = 0,
) -> list[Counter[str]]:
    """Tokens by engine and family. An attempt lasts as long as its tokens; a fixed number of groups runs at a
    time."""
    rng, balance = random.Random(seed), Balance(engines, rows=live * size)
    tokens, ends, now = [Counter[str]() for _ in range(engines)], list[tuple[float, AttemptId, int]](), 0.0
    for group in range(groups):
        while len(ends) > (live - 1) * size:
            now, attempt, took = heapq.heappop(ends)
            balance.ended(attempt, took)
        for slot in range(size):
            attempt, took = (
                AttemptId(group=group, slot=slot),
                round(COSTS[family_of(group)] * rng.uniform(0.5, 1.5)),
            )
            tokens[balance.place(attempt, family_of(group))][family_of(group)] += took
            heapq.heappush(ends, (now + took, attempt, took))
    return tokens


@pytest.mark.parametrize("engines", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_families_that_come_in_turn_are_dealt_out_evenly(engines: int, seed: int) -> None:
    """Assigned by number, one engine would get all long attempts."""
    tokens = play(engines, lambda group: "long" if group % engines == 0 else "brief", seed=seed)
    totals = [each.total() for each in tokens]
    assert max(totals) < 1.15 * sum(totals) / engines, totals
    for each in tokens:
        assert each["long"] > 0.6 * sum(other["long"] for other in tokens) / engines


@given(engines=st.integers(1, 5), rows=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_a_group_stays_together_no_engine_is_overfull_while_another_has_room_and_in_the_end_nothing_is_out(
    engines: int, rows: int, seed: int
) -> None:
    rng, balance = random.Random(seed), Balance(engines, rows=rows)
    out: dict[AttemptId, int] = {}
    for group in range(40):
        homes: set[int] = set()
        held = Counter(out.values())
        for slot in range(2):
            attempt = AttemptId(group=group, slot=slot)
            out[attempt] = balance.place(attempt, group % 3)
            homes.add(out[attempt])
        (home,) = homes
        assert held[home] < rows or min(held[engine] for engine in range(engines)) >= rows
        for attempt in rng.sample(sorted(out), rng.randrange(min(len(out), 5))):
            balance.ended(attempt, rng.randrange(100))
            del out[attempt]
    for attempt in list(out):
        balance.ended(attempt, 1)
    assert [balance.load(engine) for engine in range(engines)] == [0.0] * engines


def test_what_comes_back_after_a_void_is_placed_anew_and_the_same_history_gives_the_same_engines() -> None:
    def history() -> list[int]:
        balance, rng, found = Balance(3, rows=4), random.Random(7), list[int]()
        for group in range(30):
            first = AttemptId(group=group, slot=0)
            found.append(balance.place(first))
            balance.ended(first, rng.randrange(50))
            again = AttemptId(group=group, slot=0, tries=1)
            found.append(balance.place(again))
            if group % 2:
                balance.ended(again, rng.randrange(50))
        return found

    assert history() == history()
    assert set(history()) == {0, 1, 2}
