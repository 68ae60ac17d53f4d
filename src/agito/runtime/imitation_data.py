"""What `sft.messages` names: conversations from a file, a gateway's recording, or an earlier run's attempts;
and those of them that turned out well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agito.envs.prompts.data import Conversation, read_conversations
from agito.errors import BadRecipe
from agito.recipe import SftSection
from agito.record import recording
from agito.record.answers import Answers
from agito.record.outcomes import OUTCOMES, Outcome
from agito.record.reading import read_trajectories
from agito.record.rundir import RunDir, RunState
from agito.record.trajectories import is_success
from agito.runtime.policy_sources import find, recipe_of, renderer_of
from agito.types import Attempt, Trajectory

Example: TypeAlias = Conversation | Trajectory

_PHASES = ("demo", "rl")  # of a run: those in which it trained
_UNJUDGED, _FAILED, _PENALISED = "without an outcome", "no success", "penalised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """`vocabulary`: of recorded tokens; empty for conversations from a file, which have none."""

    source: str
    kept: tuple[Example, ...]
    left_out: Mapping[str, int]  # by reason
    vocabulary: str = ""
    num_strange: int = 0  # outcomes of conversations that are not here

    @property
    def num(self) -> int:
        return len(self.kept) + sum(self.left_out.values())

    def told(self) -> str:
        """One line for people."""
        why = "".join(f", {number} {reason}" for reason, number in self.left_out.items())
        strange = f"; outcomes of none of them: {self.num_strange}" if self.num_strange else ""
        return f"{self.source}: {len(self.kept)} of {self.num} conversations are imitated{why}{strange}"


def sifted(section: SftSection) -> Sifted:
    """Those that turned out well enough. Where any has an outcome, or is asked to have one, those without are
    left out. Raises `NotFound`, `BadEnvironment`, and `BadRecipe` where nothing is left.
    """
    path, least = Path(section.messages), section.least_reward
    source = f"sft.messages={section.messages}"
    vocabulary, num_strange, is_recorded = "", 0, True
    if recording.is_recording(path):
        found = recording.read(path)
        vocabulary, num_strange = found.vocabulary, found.num_strange
        judged = [
            (each.trajectory, found.outcomes.get(each.trajectory.attempt.group, {}))
            for each in found.attempts
        ]
        examples = [(*_best(trajectory, outcomes, least), "") for trajectory, outcomes in judged]
    elif path.is_dir() and RunDir.state(path) in (RunState.FINISHED, RunState.UNFINISHED):
        checkpoint = find(path)
        vocabulary = recording.vocabulary_of(renderer_of(checkpoint, recipe_of(checkpoint)))
        examples = list(_of_run(path))
    else:
        told, is_recorded = read_conversations(path), False
        examples = [(each, each.outcome, "") for each in told]
    is_filtered = is_recorded or least is not None or any(outcome for _, outcome, _ in examples)
    why = [reason or _reason(outcome, least, is_filtered=is_filtered) for _, outcome, reason in examples]
    result = Sifted(
        source=source,
        kept=tuple(each for (each, *_), reason in zip(examples, why, strict=True) if not reason),
        left_out=Counter(filter(None, why)),
        vocabulary=vocabulary,
        num_strange=num_strange,
    )
    if not examples:
        raise BadRecipe(f"{source}: nothing is in it")
    if not result.kept:
        remedy = f"; report outcomes to POST /v1/outcomes, or write them to {path / OUTCOMES}"
        raise BadRecipe(result.told() + remedy * (_UNJUDGED in result.left_out and is_recorded))
    return result


def _best(
    trajectory: Trajectory, outcomes: Mapping[int, Outcome], least: float | None
) -> tuple[Trajectory, Outcome | None]:
    """What led to the answers that turned out well, else the whole, and an outcome of one of those."""
    good = [turn for turn, outcome in outcomes.items() if outcome.passes(least)]
    if not good:
        return trajectory, next(iter(outcomes.values()), None)
    return Answers(trajectory).excerpt(good), outcomes[good[0]]


def _of_run(path: Path) -> Iterator[tuple[Trajectory, Outcome | None, str]]:
    for phase in _PHASES:
        for file in sorted((path / "trajectories").glob(f"{phase}-*.parquet")):
            for each in read_trajectories(file):
                attempt = each.attempt
                yield attempt.trajectory, _outcome(attempt), _PENALISED if attempt.penalty else ""


def _outcome(attempt: Attempt) -> Outcome | None:
    """That of the verdict."""
    success = is_success(attempt)
    return None if success is None else Outcome(reward=attempt.verdict.reward, success=success)


def _reason(outcome: Outcome | None, least: float | None, *, is_filtered: bool) -> str:
    """Why it is left out; empty for what is imitated."""
    if outcome is None:
        return _UNJUDGED if is_filtered else ""
    if outcome.passes(least):
        return ""
    return _FAILED if least is None else f"below sft.least_reward={least:g}"
