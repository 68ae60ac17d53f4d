"""Where a run's numbers are also shown: TensorBoard, Weights & Biases, a program of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agito.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker learns of a run, besides numbers. `folder` is its own, and is kept over a resume."""

    name: str
    recipe: Mapping[str, Json]
    folder: Path
    project: str
    online: bool  # whether it may use the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Numbers of one step. `phase`: sft or rl; heldout, scripts or structural (evaluations, at the RL step
    they follow); summary. `at`: Unix time in seconds.
    """

    phase: str
    step: int
    at: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """Lives in a process of its own, so that it can neither stop nor slow the run; it is made without
    arguments. An exception ends it, with a warning; the run goes on.
    """

    def open(self, run: TrackedRun) -> None:
        """Once a process. A resumed run opens it again, with the same folder."""
        ...

    def log(self, points: Sequence[Point]) -> None:
        """They are kept when this returns."""
        ...

    def rewind(self, phase: str, step: int) -> None:
        """The run takes `step` and those after it again; their numbers come anew."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...
