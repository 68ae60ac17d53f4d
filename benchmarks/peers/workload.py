"""Agents as an engine sees them: tokens observed, tokens sampled, a tool; turn after turn. Standard library
only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TOOL_S = 0.05
VOCABULARY = 2048
GROUP = 8  # episodes with the same opening


@dataclass(frozen=True)
class Turn:
    observed: tuple[int, ...]  # token ids
    num_sampled: int


def episodes(number: int, *, seed: int, opening: int = 0) -> list[list[Turn]]:
    """4-8 turns of 8-40 observed and 8-40 sampled tokens (24 of each on average). Equal arguments give equal
    episodes.

    `opening`: number of tokens observed first instead, equal within each group of 8 episodes, as in attempts
    at one task.
    """
    rng = random.Random(f"engine/{seed}/{number}")
    work = [
        [
            Turn(
                observed=tuple(rng.randrange(8, VOCABULARY) for _ in range(rng.randint(8, 40))),
                num_sampled=rng.randint(8, 40),
            )
            for _ in range(rng.randint(4, 8))
        ]
        for _ in range(number)
    ]
    if opening:
        for first in range(0, number, GROUP):
            said = tuple(rng.randrange(8, VOCABULARY) for _ in range(opening))
            for turns in work[first : first + GROUP]:
                turns[0] = Turn(observed=said, num_sampled=turns[0].num_sampled)
    return work


def num_sampled(work: list[list[Turn]]) -> int:
    return sum(turn.num_sampled for turns in work for turn in turns)
