"""Honest reports: a tool with which a policy reports that its task, or the task's check, is broken.

The report ends the episode. Whatever the grader says, it earns the environment's lowest reward, as doing
nothing does (`agito.rollout.attempt`), so it is neither a way to a reward nor a way out. Reports are counted
and shown to people.
"""

from __future__ import annotations

from agito.errors import InvalidArguments
from agito.types import Call
from agito.worlds.component import Answer, Machine, spec, text_of

REPORT = spec(
    "report_flaw",
    "Say that the task or its check is broken, and why. Ends the episode and earns what doing nothing earns.",
    ["why"],
)


_LONGEST = 1000  # characters of a reason


class FlawDesk(Machine):
    """Takes one report. Add it to a world's components, and `REPORT` to the task's tools."""

    name, tools = "flaw", (REPORT,)
    is_quick = True

    def __init__(self) -> None:
        super().__init__([])

    def step(self, call: Call) -> Answer:
        why = text_of(call, "why").strip()[:_LONGEST]
        if not why:
            raise InvalidArguments("report_flaw needs a reason")
        self.state = [why]
        return Answer(text="", submitted=f"reported: {why}")
