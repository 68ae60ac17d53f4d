"""Simulated users as state machines: they want something, leave things out, misremember, change their mind,
lose patience.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from agito.types import Call, Json, ToolSpec
from agito.worlds.component import Answer, Machine, spec, text_of

ASK = spec("ask", "Says something to the user and returns the reply.", ["text"])
_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Mind:
    """What a user wants and how it will say so. All of it is hidden and changes during the conversation."""

    wants: dict[str, str]  # by topic, such as {"item": "lamp"}
    # its first answer, if it misremembers
    recalls: dict[str, str] = field(default_factory=dict[str, str])
    changes: list[dict[str, str]] = field(
        default_factory=list[dict[str, str]]
    )  # what it wants instead, one each time it is asked to confirm
    patience: int = 8  # number of questions it answers
    asked: int = 0


class User(Machine):
    """`topics` maps topics to the words that ask about them; a question with a word of `confirming` asks
    whether it is sure.

    Asked about a topic, it first says what it remembers, then the truth. Asked to confirm, it applies its
    next change: it says `no` and what it wants instead; with none left, `yes`.
    """

    state: Mind
    is_quick = True

    def __init__(
        self,
        mind: Mind,
        topics: Mapping[str, tuple[str, ...]],
        *,
        confirming: tuple[str, ...] = ("sure",),
        name: str = "user",
        tool: ToolSpec = ASK,
    ) -> None:
        super().__init__(mind)
        self.name, self.tools, self._topics, self._confirming = name, (tool,), topics, confirming

    def step(self, call: Call) -> Answer:
        (parameter,) = cast("dict[str, Json]", self.tools[0].parameters["properties"])
        said = set(_WORD.findall(text_of(call, parameter).lower()))
        self.state.asked += 1
        if self.state.asked > self.state.patience:
            return Answer(text="bye")
        if said & set(self._confirming):
            return Answer(text=self._confirm())
        topic = next((topic for topic, words in self._topics.items() if said & set(words)), None)
        if topic is None or topic not in self.state.wants:
            return Answer(text="what")
        return Answer(text=self.state.recalls.pop(topic, self.state.wants[topic]))

    def _confirm(self) -> str:
        if not self.state.changes:
            return "yes"
        change = self.state.changes.pop(0)
        self.state.wants.update(change)
        return " ".join(("no", *change.values()))
