"""What an attempt left behind, and its judgement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agito.types.enums import Status
from agito.types.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArtifacts:
    """A finished world as data, which the grader reads after every process of the agent is dead.

    `digest` is a canonical hash of `files`, `submitted` and the world's own state.
    """

    task_id: str
    submitted: str | None
    files: Mapping[str, bytes]
    digest: str


ANSWER = "the answer"  # location of a flag on the submitted answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A sign of cheating that a grader saw. Proof is hard evidence, such as a canary in the answer; the rest
    is soft."""

    kind: str  # such as "canary", "forged_report", "forbidden_write"
    is_proof: bool
    detail: str = ""
    where: str = ""  # the graded file with the sign, or `ANSWER`; empty: unknown
    event: int | None = None  # the first call concerned; None: no single call


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one attempt. `reward` is meaningless when void."""

    status: Status
    reward: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    evidence: str = ""
    grade_seed: int = 0
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        if self.status is Status.SCORED and not math.isfinite(self.reward):
            raise ValueError(f"reward={self.reward}: a scored verdict needs a finite reward")
        if self.status is Status.VOID and not math.isnan(self.reward):
            raise ValueError(f"reward={self.reward}: a void verdict has none")

    @classmethod
    def scored(cls, reward: float, *, evidence: str, grade_seed: int) -> Verdict:
        """A verdict with a single score, `success`, equal to the reward."""
        return cls(
            status=Status.SCORED,
            reward=reward,
            scores={"success": reward},
            evidence=evidence,
            grade_seed=grade_seed,
        )

    @classmethod
    def void(cls, evidence: str) -> Verdict:
        return cls(status=Status.VOID, evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """The training reward of an attempt whose verdict is not trusted, from one call on.

    Tokens of earlier turns keep the verdict's reward. The attempt enters no baseline and is no success.
    """

    why: str  # proof of cheating, or the contradiction found
    reward: float
    floor: float  # the environment's lowest reward: the baseline of last resort
    event: int = 0  # index of the first call concerned


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A trajectory and its outcome."""

    trajectory: Trajectory
    verdict: Verdict
    penalty: Penalty | None = None
    gold: Verdict | None = None  # by the held-out validator, if it judged; never a reward
    # probability in (0, 1] that it was asked; weights the attempt by 1 / gold_chance
    gold_chance: float = 1.0

    cost: float = 0.0  # of its thinking and its critical path, at their prices

    @property
    def utility(self) -> float:
        """What learning goes by: reward less cost. Success is reported beside it, never through it."""
        return self.verdict.reward - self.cost

    @property
    def is_scored(self) -> bool:
        return self.verdict.status is Status.SCORED

    @property
    def is_trusted(self) -> bool:
        """Whether it is scored and the verdict is trusted."""
        return self.is_scored and self.penalty is None

    @property
    def quarantine(self) -> str:
        """Why its reward enters no baseline; empty: it does."""
        return self.penalty.why if self.penalty else ""
