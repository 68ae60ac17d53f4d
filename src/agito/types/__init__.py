"""The records along the path of data, from a task to a sample; standard library only.

In the order in which they are made: `Task` and `Target`, `Call`, `Event`, `Turn`, `Segment`, `Trajectory`,
`Verdict`, `Group`, `Sample`. Records are frozen and hold tuples; constructors check lengths. Text in them is
for people; training reads token columns only.
"""

from __future__ import annotations

from agito.types.enums import (
    Channel,
    Dialect,
    Effort,
    Exactness,
    Fault,
    FinishReason,
    Json,
    Mode,
    Status,
    TerminationReason,
    ThinkingTurns,
    TokenSource,
)
from agito.types.group import Group, Sample, has_variance, mean
from agito.types.task import AttemptId, Budget, Call, Event, Limits, Target, Task, ToolSpec
from agito.types.thinking import Thinking
from agito.types.trajectory import Lineage, Segment, Tokens, Trajectory, Turn, VersionSpan, span
from agito.types.verdict import ANSWER, Attempt, EpisodeArtifacts, Flag, Penalty, Verdict

__all__ = [
    "ANSWER",
    "Attempt",
    "AttemptId",
    "Budget",
    "Call",
    "Channel",
    "Dialect",
    "Effort",
    "EpisodeArtifacts",
    "Event",
    "Exactness",
    "Fault",
    "FinishReason",
    "Flag",
    "Group",
    "Json",
    "Limits",
    "Lineage",
    "Mode",
    "Penalty",
    "Sample",
    "Segment",
    "Status",
    "Target",
    "Task",
    "TerminationReason",
    "Thinking",
    "ThinkingTurns",
    "TokenSource",
    "Tokens",
    "ToolSpec",
    "Trajectory",
    "Turn",
    "Verdict",
    "VersionSpan",
    "has_variance",
    "mean",
    "span",
]
