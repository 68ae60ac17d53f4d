"""The knobs of the monitor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agito.config import Section


class MonitorConfig(Section):
    """Who is looked at twice, and what follows.

    `on_alarm`: `stop` ends the run with a checkpoint and learns nothing more; `quarantine` takes the weights back to the last checkpoint
    before the rise and goes on from there, has every rewarded attempt judged by the environment's held-out validator from then on, and
    gives what it contradicts the lowest reward; `watch` only records. `stop` is the default because
    a validator is only as good as what it sees: where gold is asked about few attempts, or leans on the reward's own hole, what is left
    in is the cheating that nobody noticed, and RL amplifies just that.
    """

    penalty: float = Field(default=0.5, ge=0)  # below the lowest reward, in ranges of the reward, for an attempt with proof of cheating
    void_limit: float = Field(default=0.01, gt=0, lt=0.25)  # share of void tries above which nothing is learned from a cell

    gold_share: float = Field(default=0.05, ge=0, le=1)  # of attempts that the validator judges besides the suspect ones
    regrade_share: float = Field(default=0.02, ge=0, le=1)  # of attempts that are graded twice, with the same seed
    limit: float = Field(default=0.02, gt=0, lt=0.25)  # hack rate above which the alarm is raised
    gap: float = Field(default=0.5, gt=0)  # of reward over gold from which an attempt counts as a hack
    on_alarm: Literal["stop", "quarantine", "watch"] = "stop"
