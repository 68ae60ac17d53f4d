"""An honest way out: a tool with which a policy says that its task, or the check of it, is broken.

The episode ends there. Whatever the grader then says, nothing is learned from the attempt (`agito.grading.monitor`), so that a report is
neither a way to a reward nor punished; reports are counted and shown, for somebody to read.
"""

from __future__ import annotations

from agito.errors import InvalidArguments
from agito.types import Call
from agito.world.component import Answer, Machine, spec, text_of

REPORT = spec("report_flaw", "Say that the task or its check is broken, and why. Ends the episode; it neither pays nor costs.", ["why"])


class FlawDesk(Machine):
    """Takes one report. Put it among a world's components, and `REPORT` among its task's tools."""

    name, tools = "flaw", (REPORT,)
    is_quick = True

    def __init__(self) -> None:
        super().__init__([])

    def step(self, call: Call) -> Answer:
        why = text_of(call, "why").strip()
        if not why:
            raise InvalidArguments("report_flaw needs a reason")
        self.state = [why]
        return Answer(text="", submitted=f"reported: {why}")
