"""Parts that a team hands out, with room for a tokenizer that spends a token on every byte."""

from __future__ import annotations

from dataclasses import replace

from agito.envs.decisions import DecisionsEnvironment
from agito.types import Target, Task


class RoomyFanOut(DecisionsEnvironment):
    name = "roomy-fanout"

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family or "fanout", level=1)
        return replace(task, natural_limits=replace(task.limits, tokens=4096, turn_tokens=128)), target
