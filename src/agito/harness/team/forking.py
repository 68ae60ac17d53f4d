"""Forks of a world: who works on one, and which of them a parent may still take over."""

from __future__ import annotations

from agito.harness.team.member import Child, Member
from agito.protocols import ForkedSession, ForkingSession, Session
from agito.types import Call


def can_fork(session: Session) -> bool:
    return isinstance(session, ForkingSession) and session.can_fork


async def fork(world: Session) -> ForkedSession:
    """Raises as `ForkingSession.fork`."""
    assert isinstance(world, ForkingSession)
    return await world.fork()


def child_of(parent: Member, call: Call) -> Child | str:
    """The child whose work a `merge` call takes over, or what is wrong with the call."""
    number, children = call.arguments.get("child"), parent.children
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(children):
        return f"merge: there are {len(children)} children, counted from 1 in the order of their briefs"
    child = children[number - 1]
    if child.fork is None:
        return f"merge: child {number} has no copy of the world that is still there"
    return f"merge: child {number} has been merged" if child.is_merged else child


async def close(parent: Member, *, keep: int = 0) -> None:
    """Discards forks that the parent did not take over, but for the latest."""
    waiting = [child for child in parent.children if child.fork is not None and not child.is_merged]
    for child in waiting[: len(waiting) - keep]:
        assert child.fork is not None
        await child.fork.close()
        child.fork = None
