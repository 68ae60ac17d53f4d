"""`agito plan`: what the decoupled loop would do with its time, for several bounds on staleness."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass

from agito.cli.exit_codes import work
from agito.cli.tables import plain_table, print_table
from agito.cli.terminal import out
from agito.errors import BadRecipe
from agito.evaluation import saved_policy
from agito.recipe import Recipe
from agito.runtime.run_context import environment_of
from agito.scheduling.async_scheduler import SchedulerRules
from agito.training.planning.calibrate import calibrate
from agito.training.planning.simulate import Forecast, Latencies, Simulation

_STALENESS = (0, 1, 2, 4, 8)
_GOOD_ENOUGH = 1.05  # of the best step time
_SEEDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an episode is like."""

    turns: int
    turn_tokens: int
    words: int  # of an observation
    median_s: float
    p99_s: float


def plan(recipe: Recipe, tools: Tools, *, engines: int, steps: int, as_json: bool) -> None:
    """Measures this machine, simulates, prints a table and the choice."""
    if recipe.compute.ranks < 2:
        raise BadRecipe("compute.ranks=1: overlapping needs two, one that learns and one that samples")
    saved_policy.check(environment_of(recipe), recipe, "train")
    latencies = work(
        lambda: calibrate(
            recipe,
            turns=tools.turns,
            turn_tokens=tools.turn_tokens,
            words=tools.words,
            tool_median_s=tools.median_s,
            tool_p99_s=tools.p99_s,
        )
    )
    found = {
        staleness: foresee(recipe, latencies, staleness, engines=engines, steps=steps)
        for staleness in _STALENESS
    }
    chosen = choose(found)
    if as_json:
        each = {str(staleness): asdict(foreseen) for staleness, foreseen in found.items()}
        print(json.dumps({"latencies": asdict(latencies), "foreseen": each, "max_staleness": chosen}))  # noqa: T201
        return
    table = plain_table(
        "staleness", "step", "steps/h", "trainer idle", "gated", "engine busy", "age", "concurrent"
    )
    for staleness, foreseen in found.items():
        mark = " ←" if staleness == chosen else ""
        table.add_row(
            f"{staleness}{mark}",
            f"{foreseen.step_s:.2f} s",
            f"{3600 / foreseen.step_s:.0f}",
            f"{foreseen.trainer_idle:.0%}",
            f"{foreseen.gate_wait:.0%}",
            f"{foreseen.engine_busy:.0%}",
            f"{foreseen.age_mean:.1f}",
            str(foreseen.most_live),
        )
    console = out()
    console.print(
        f"measured here: a batch trains in {latencies.train_s:.2f} s; an exchange takes "
        f"{1e3 * latencies.exchange_s:.1f} ms"
        f" + {1e3 * latencies.row_s:.2f} ms a row + {1e3 * latencies.token_s:.3f} ms a token read\n",
        style="dim",
        highlight=False,
    )
    print_table(console, table)
    console.print(
        f'\n--set pipeline.mode="decoupled" --set pipeline.max_staleness={chosen} --set '
        f"compute.max_num_seqs={found[chosen].most_live}",
        highlight=False,
        soft_wrap=True,
    )


def foresee(recipe: Recipe, latencies: Latencies, staleness: int, *, engines: int, steps: int) -> Forecast:
    """The median run of a few."""
    rules = SchedulerRules(
        groups=recipe.rl.groups,
        group_size=recipe.rl.group_size,
        batches=steps,
        max_staleness=staleness,
        max_live=1 << 20,
        oversampling=recipe.rl.oversampling,
    )
    runs = [Simulation(rules, latencies, engines=engines, seed=seed).run() for seed in range(_SEEDS)]
    middle = statistics.median_low([run.wall_s for run in runs])
    return next(run for run in runs if run.wall_s == middle)


def choose(found: dict[int, Forecast]) -> int:
    """The least staleness that is within 5 % of the fastest."""
    best = min(foreseen.step_s for foreseen in found.values())
    return min(staleness for staleness, foreseen in found.items() if foreseen.step_s <= _GOOD_ENOUGH * best)
