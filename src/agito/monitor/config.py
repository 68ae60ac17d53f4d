"""Settings of the monitor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agito.config import Section


class MonitorConfig(Section):
    """Which attempts are checked twice, and what an alarm does.

    `on_alarm`: `stop` ends the run with a checkpoint. `quarantine` returns to the last checkpoint before the
    rise, goes on from there, has every rewarded attempt judged by the held-out validator (gold), and gives
    the lowest reward to those it contradicts. `watch` only records. The default is `stop`, because a
    validator is only as good as what it sees: if gold judges few attempts, or shares the reward's loophole,
    the cheating that remains is the undetected kind, and RL amplifies exactly that.
    """

    penalty: float = Field(
        default=0.5,
        ge=0,
        description="What proof of cheating costs below the lowest reward, in ranges of the reward.",
    )
    void_limit: float = Field(
        default=0.01,
        gt=0,
        lt=0.25,
        description="Share of void tries above which nothing is learned from a cell.",
    )

    gold_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of attempts that the held-out validator judges, beside the suspect ones.",
    )
    regrade_share: float = Field(
        default=0.02, ge=0, le=1, description="Share of attempts that are graded twice, with the same seed."
    )
    limit: float = Field(
        default=0.02, gt=0, lt=0.25, description="Estimated hack rate above which the alarm is raised."
    )
    gap: float = Field(
        default=0.5, gt=0, description="Reward less gold from which an attempt counts as a hack."
    )
    on_alarm: Literal["stop", "quarantine", "watch"] = Field(
        default="stop",
        description="`stop`: end the run with a checkpoint. `quarantine`: go back to before the rise, and "
        "have every rewarded attempt "
        "judged from then on. `watch`: only record.",
    )
