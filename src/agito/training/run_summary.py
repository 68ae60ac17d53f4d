"""What the evaluations of a run came to, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agito.monitor import Monitor
from agito.recipe import Recipe
from agito.record import Rate, Summary, rate, rate_over_all, rates_by_cell
from agito.record.usage import UsageCounters, load
from agito.types import Attempt, Json


@dataclass(slots=True)
class Outcome:
    """Filled as the run gets on."""

    before: Sequence[Attempt] = ()
    after: Sequence[Attempt] = ()
    structural: Sequence[Attempt] = ()
    baselines: Mapping[str, Rate] = field(default_factory=dict[str, Rate])

    def summary(
        self,
        recipe: Recipe,
        meta: Mapping[str, Json],
        tally: UsageCounters,
        monitor: Monitor,
        *,
        tier: str,
        paused: str,
    ) -> Summary:
        """`meta` is what `run.json` says; `tier` the isolation that episodes had."""
        phases, admission = tally.phase_wall_s, meta.get("admission")
        return Summary(
            commit=str(meta.get("commit") or "unknown"),
            seed=recipe.seed,
            isolation_tier=tier,
            before=rate(self.before),
            after=rate(self.after),
            structural=rate(self.structural) if self.structural else None,
            before_all=rate_over_all(self.before),
            after_all=rate_over_all(self.after),
            structural_all=rate_over_all(self.structural) if self.structural else None,
            cells_before=rates_by_cell(self.before),
            cells_after=rates_by_cell(self.after),
            baselines=self.baselines,
            num_eval_tasks=len(self.after),
            wall_s=sum(phases.values()),
            cpu_s=tally.cpu_s(),
            load=load(),
            stolen_ratio=tally.stolen_ratio(),
            phase_wall_s=phases,
            phase_cpu_s=tally.phase_cpu_s,
            sampled_tokens=tally.sampled_tokens,
            tool_calls=tally.tool_calls,
            tool_cpu_ms_p50=tally.tool_cpu_ms_p50,
            void_attempts=tally.void_attempts,
            void_causes=tally.commonest_causes(),
            admission=admission if isinstance(admission, dict) else {},
            quarantined_attempts=tally.quarantined_attempts,
            monitor=monitor.summary(),
            paused=paused,
        )
