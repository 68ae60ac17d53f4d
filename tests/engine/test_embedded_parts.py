"""The parts of the embedded engine in isolation: random numbers, sampling, bookkeeping of rows."""

from __future__ import annotations

import math
import random
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agito.protocols import SampleRequest
from agito.sampling.embedded.rows import EngineRow, RowBook
from agito.sampling.embedded.sampling import sample, uniforms
from agito.sampling.wire import RowRequest
from agito.types import VersionSpan


def test_random_numbers_are_even_and_unrelated_across_neighbouring_seeds_and_positions() -> None:
    seeds, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200), indexing="ij")
    drawn = uniforms(seeds.ravel(), positions.ravel()).reshape(200, 200)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 99 + 4 * math.sqrt(2 * 99)
    for one, next_to_it in ((drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])):
        assert abs(np.corrcoef(one.ravel(), next_to_it.ravel())[0, 1]) < 4 / math.sqrt(one.size)
    assert len(np.unique(drawn)) == drawn.size


def test_random_numbers_are_a_function_of_seed_and_position_and_stay_the_same_across_releases() -> None:
    drawn = uniforms(np.array([0, 0, 1, 2**64 - 1], dtype=np.uint64), np.array([0, 1, 0, 5]))
    assert drawn.tolist() == [
        slow_uniform(0, 0),
        slow_uniform(0, 1),
        slow_uniform(1, 0),
        slow_uniform(2**64 - 1, 5),
    ]


def slow_uniform(seed: int, position: int) -> float:
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    return (mix(mix(seed + golden & mask) + position * golden & mask) >> 12) / 2**52


def test_a_draw_is_the_inverse_of_the_cumulative_distribution_by_rising_id() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(7, 4)
    below = np.nextafter(1.0, 0.0)
    ids, logprobs = sample(
        logits,
        torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.99, below], dtype=torch.float64),
        torch.ones(7),
        None,
        is_greedy=False,
    )
    assert ids.tolist() == [0, 0, 2, 2, 3, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3, 0.3]))


def test_truncation_keeps_the_smallest_set_that_holds_top_p_and_leaves_other_rows_alone_to_the_bit() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(5, 4)
    uniform = torch.full((5,), 0.999, dtype=torch.float64)
    top_ps = torch.tensor([0.39, 0.41, 0.71, 0.91, 1.0])
    ids, logprobs = sample(logits, uniform, torch.ones(5), top_ps, is_greedy=False)
    assert ids.tolist() == [1, 3, 3, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([1.0, 0.3 / 0.7, 0.3 / 0.9, 0.3, 0.3]))
    many = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    uniform, heat = torch.linspace(0, 0.99, 500, dtype=torch.float64), torch.ones(500)
    alone = sample(many, uniform, heat, None, is_greedy=False)
    beside = sample(
        many, uniform, heat, torch.ones(500).index_fill(0, torch.tensor([7]), 0.5), is_greedy=False
    )
    untouched = torch.arange(500) != 7
    assert all(
        torch.equal(one[untouched], other[untouched]) for one, other in zip(alone, beside, strict=True)
    )


def test_what_has_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf]).expand(3, 5)
    uniform = torch.tensor([0.0, 0.5, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert sample(logits, uniform, torch.ones(3), None, is_greedy=False)[0].tolist() == [1, 3, 3]


def test_equal_tokens_are_truncated_by_rising_id() -> None:
    ids, logprobs = sample(
        torch.zeros(1, 8),
        torch.tensor([0.99], dtype=torch.float64),
        torch.ones(1),
        torch.tensor([0.5]),
        is_greedy=False,
    )
    assert ids.tolist() == [3]
    assert logprobs.exp().item() == pytest.approx(0.25)


def row_request(key: int) -> RowRequest:
    return RowRequest(
        key=key, seed=0, request=SampleRequest(extend=array("i", [1]), max_tokens=1, stop_ids=())
    )


@given(st.integers(0, 10_000))
def test_the_book_never_loses_or_doubles_a_slot_and_moves_carry_every_row_along(seed: int) -> None:
    rng, book = random.Random(seed), RowBook(6)
    cache: dict[int, int] = {}  # slot: the key whose tokens lie there
    for key in range(30):
        for closing in [other for other in book.rows if rng.random() < 0.2]:
            book.close(closing)
        if not book.is_full:
            row = book.rows.setdefault(key, EngineRow(key=key))
            book.seat(row)
            row.computed = rng.randint(0, 3)
            if row.computed:
                cache[row.slot] = key
        book.live = [row for row in book.rows.values() if rng.random() < 0.5]
        rng.shuffle(book.live)
        cache |= {target: cache[source] for source, target, _ in book.gather()}
        assert [row.slot for row in book.live] == list(range(len(book.live))), (
            "live rows come first, in order"
        )
        assert all(cache[row.slot] == row.key for row in book.rows.values() if row.computed)
        slots = sorted([row.slot for row in book.rows.values()] + book._free_slots)
        lanes = sorted([row.lane for row in book.rows.values()] + book._free_lanes)
        assert slots == lanes == list(range(6))


def test_closing_a_waiting_row_takes_it_out_of_the_queue_only() -> None:
    book = RowBook(1)
    book.queue.extend(row_request(key) for key in (3, 4, 5))
    book.close(4)
    assert [request.key for request in book.queue] == [3, 5]
    assert book.busy() == {3, 5}


def test_a_version_that_computed_nothing_leaves_no_span() -> None:
    row = EngineRow(key=0, length=5, start=5)
    for version, length in ((1, 8), (2, 8), (1, 9), (2, 9), (3, 11), (4, 11)):
        row.mark(version, row.length)
        row.length = length
    assert row.spans() == (VersionSpan(start=0, stop=4, version=1), VersionSpan(start=4, stop=6, version=3))
