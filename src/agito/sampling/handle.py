"""What a row is to whoever holds it: new, resting, sampling or closed, and what may be done with it in each
of these states.

Drivers fill in how. Whatever order the holder does things in, the engine behind is told nothing that it would
refuse: a mistake is a `ValueError` for the one who made it, and nobody else's row notices.
"""

from __future__ import annotations

from enum import Enum

from agito.protocols import Row, Sampled, SampleRequest


class _State(Enum):
    NEW = "new"  # the engine does not know it yet
    RESTING = "resting"
    SAMPLING = "sampling"
    CLOSED = "closed"


class Handle:
    """Implements `Row`. A request that is given up closes its row: nobody knows how far the engine has come
    with it.
    """

    def __init__(self, *, is_known: bool = False) -> None:
        self._state = _State.RESTING if is_known else _State.NEW

    async def sample(self, request: SampleRequest) -> Sampled:
        before = self._refuse_unless_at_rest("sampled from")
        self._state = _State.SAMPLING
        try:
            sampled = await self._sample(request)
        except ValueError:  # refused, and the row is as it was
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
        """Of a row in which nothing was sampled: a new one."""
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
        """Raises `ValueError` for a request that was refused, the row being as before."""
        raise NotImplementedError

    def _open(self, seed: int) -> Row:
        """Another row, beside this one."""
        raise NotImplementedError

    def _branch(self, seed: int) -> Row:
        """A row that begins as this one, which rests."""
        raise NotImplementedError

    def _close(self) -> None:
        """The engine forgets the row, whatever it is doing with it. Called once, and not for a row that it
        never heard of.
        """
        raise NotImplementedError
