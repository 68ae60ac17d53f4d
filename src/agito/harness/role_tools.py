"""The tools that a role may call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from agito.protocols import AgentSpec, Session
from agito.types import Budget, Call, Event, ToolSpec


def session_of(agent: AgentSpec, session: Session) -> Session:
    """The session as this agent may use it."""
    return session if agent.tools is None else GrantedSession(session, agent.tools)


class GrantedSession:
    """Wraps a session. A call to a tool that was not granted is answered like one to an unknown tool."""

    def __init__(self, session: Session, granted: Collection[str]) -> None:
        self._session, self._granted = session, frozenset(granted)

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return tuple(tool for tool in self._session.tools if tool.name in self._granted)

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """As `Session.act`."""
        return await self._session.act([self._checked(call) for call in calls], left)

    def _checked(self, call: Call) -> Call:
        if call.problem or call.tool in self._granted:
            return call
        return replace(
            call, problem=f"{call.tool}: the tools are {', '.join(tool.name for tool in self.tools)}"
        )
