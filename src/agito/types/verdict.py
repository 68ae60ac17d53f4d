"""What an attempt left behind and how it was judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agito.types.kinds import Status
from agito.types.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArtifacts:
    """A finished world as data: what the grader reads after every process of the agent is dead.

    `digest` hashes `files`, `submitted` and the world's own state canonically.
    """

    task_id: str
    submitted: str | None
    files: Mapping[str, bytes]
    digest: str


ANSWER = "the answer"  # where a flag stands that is about what was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A sign of cheating that a grader saw. Proof is hard evidence, such as a canary in the answer; the rest
    is soft.
    """

    kind: str  # such as "canary", "forged_report", "forbidden_write"
    is_proof: bool
    detail: str = ""
    where: str = ""  # the graded file that it stands in, or `ANSWER`; empty: neither is known
    event: int | None = None  # the first call that it is about; None: no one call


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on one attempt. `reward` is meaningless when void."""

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
        """With one score, `success`, which is the reward."""
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
    """What training takes for the reward of an attempt whose verdict is not believed, from one call on.

    Tokens of earlier turns keep the verdict's reward. The attempt is in nobody's baseline and is no success.
    """

    why: str  # proof of cheating, or what contradicts the verdict
    reward: float
    floor: float  # the environment's lowest reward: the baseline where nothing better is known
    event: int = 0  # index of the first call that it applies to


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A trajectory and what became of it."""

    trajectory: Trajectory
    verdict: Verdict
    penalty: Penalty | None = None
    gold: Verdict | None = None  # of the held-out validator, where it was asked; never a reward
    gold_chance: float = 1.0  # with which it was asked, in (0, 1]: such an attempt stands for 1 / gold_chance

    @property
    def is_scored(self) -> bool:
        return self.verdict.status is Status.SCORED

    @property
    def is_trusted(self) -> bool:
        """Scored, and the verdict is believed."""
        return self.is_scored and self.penalty is None

    @property
    def quarantine(self) -> str:
        """Why its reward is kept out of everybody's baseline, or nothing."""
        return self.penalty.why if self.penalty else ""
