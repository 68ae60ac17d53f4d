"""The states of a row for its holder (new, resting, sampling, closed) and the operations allowed in each.

Drivers implement the operations. Whatever the holder does, the engine receives nothing that it would refuse:
a mistake raises `ValueError` for its author and does not affect other rows.
"""

from __future__ import annotations

from enum import Enum

from agito.protocols import Row, Sampled, SampleRequest


class _State(Enum):
    NEW = "new"  # unknown to the engine
    RESTING = "resting"
    SAMPLING = "sampling"
    CLOSED = "closed"


class Handle:
    """Implements `Row`. Cancelling a request closes its row, since the engine's progress on it is unknown."""

    def __init__(self, *, is_known: bool = False) -> None:
        self._state = _State.RESTING if is_known else _State.NEW

    async def sample(self, request: SampleRequest) -> Sampled:
        before = self._refuse_unless_at_rest("sampled from")
        self._state = _State.SAMPLING
        try:
            sampled = await self._sample(request)
        except ValueError:  # refused, and the row is unchanged
            if self._state is _State.SAMPLING:
                self._state = before
            raise
        except BaseException:
            await self.close()
            raise
        if self._state is _State.SAMPLING:
            self._state = _State.RESTING
        return sampled

    def branch(self, seed: int) -> Row:
        """Branching a row before anything was sampled gives a new row."""
        return (
            self._open(seed) if self._refuse_unless_at_rest("branched") is _State.NEW else self._branch(seed)
        )

    async def close(self) -> None:
        before, self._state = self._state, _State.CLOSED
        if before in (_State.RESTING, _State.SAMPLING):
            self._close()

    def _refuse_unless_at_rest(self, what: str) -> _State:
        if self._state in (_State.SAMPLING, _State.CLOSED):
            why = "it is closed" if self._state is _State.CLOSED else "a request of it is under way"
            raise ValueError(f"this row cannot be {what}: {why}")
        return self._state

    async def _sample(self, request: SampleRequest) -> Sampled:
        """Raises `ValueError` for a refused request, with the row unchanged."""
        raise NotImplementedError

    def _open(self, seed: int) -> Row:
        """Another, empty row."""
        raise NotImplementedError

    def _branch(self, seed: int) -> Row:
        """A row with the same content as this resting one."""
        raise NotImplementedError

    def _close(self) -> None:
        """Makes the engine forget the row, whatever its state. Called once, and only for rows that the engine
        knows."""
        raise NotImplementedError
