"""Thinking outside think blocks, found in the record of an attempt: what is metered, and what is priced."""

from __future__ import annotations

from collections.abc import Sequence

from agito.sampling.thinking_budget import whole_turns
from agito.types import Channel, Event, Fault, TokenSource, Trajectory, Turn

_NO_SUCH_COMMAND = 127  # of a shell


def leaked(trajectory: Trajectory) -> int:
    """Tokens sampled outside blocks that nothing which happened needed."""
    return sum(of_turns(trajectory))


def of_turns(trajectory: Trajectory, *, free: int = 0, action: int | None = None) -> list[int]:
    """The same, turn by turn.

    A turn whose calls all failed as the policy's own mistakes did nothing: all that it said counts. One that
    calls nothing and ends its segment is an answer: none of it does. `free` tokens of each turn are left out.
    All that a turn says beyond `action` tokens counts, whatever its calls need.
    """
    whole = whole_turns(trajectory.turns)
    last = {turn[0].segment: at for at, turn in enumerate(whole)}
    found = list[int]()
    for at, turn in enumerate(whole):
        events = [trajectory.events[call] for each in turn for call in each.calls]
        said = num_said(trajectory, turn) if action is not None or _is_idle(events) else 0
        num = said if _is_idle(events) else turn[0].num_leaked
        if not events and last[turn[0].segment] == at:
            num = 0
        found.append(max(num - free, said - action if action is not None else 0, 0))
    return found


def num_said(trajectory: Trajectory, turn: Sequence[Turn]) -> int:
    """Tokens that a turn sampled outside blocks; control tokens apart."""
    tokens = next(each.tokens for each in trajectory.segments if each.id == turn[0].segment)
    return sum(
        tokens.kinds[at] == TokenSource.SAMPLED and tokens.channels[at] != Channel.THINK
        for each in turn
        for at in range(each.start, each.stop)
    )


def _is_idle(events: Sequence[Event]) -> bool:
    return bool(events) and all(
        event.fault is Fault.POLICY or event.exit_code == _NO_SUCH_COMMAND for event in events
    )
