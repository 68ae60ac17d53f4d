"""Predicts a hundred thousand concurrent episodes with the scheduler's own code, and the load on each part.

    python benchmarks/scale.py [--short]

Engines and trainer get assumed latencies (see `ASSUMED`: one accelerator each, a model of about 8 B
parameters). Measured here: the cost of an action to scheduler and simulation together with so many live
episodes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace

from agito.scheduling.async_scheduler import SchedulerRules
from agito.training.planning.simulate import Latencies, Simulation
from harness import Json, report

# Assumed: 30 ms for a decode step of 1,500 rows, 20,000 prefilled tokens per second, a batch of 8,192
# episodes in 60 s.
ASSUMED = Latencies(
    exchange_s=0.2,
    row_s=0.000_2,
    token_s=0.000_05,
    train_s=60.0,
    pull_s=1.0,
    turns=8,
    turn_tokens=256,
    observed_tokens=512,
    tool_median_s=5.0,
    tool_p99_s=100.0,
    decode_steps=16,
)
GROUP = 8


def foresee(episodes: int, staleness: int, *, engines: int, batches: int, most_s: float) -> dict[str, Json]:
    """`episodes` are live at once: (S + 1) batches of groups."""
    groups = episodes // GROUP // (staleness + 1)
    share = groups * GROUP / 8192
    rules = SchedulerRules(
        groups=groups,
        group_size=GROUP,
        batches=batches,
        max_staleness=staleness,
        max_live=episodes,
        oversampling=1.0,
    )
    latencies = replace(ASSUMED, train_s=ASSUMED.train_s * share, tool_most_s=most_s)
    began = time.process_time()
    simulation = Simulation(rules, latencies, engines=engines)
    seen = simulation.run()
    cpu_s = time.process_time() - began
    actions = batches * groups * GROUP * latencies.turns
    return {
        **asdict(seen),
        "episodes": episodes,
        "staleness": staleness,
        "call_deadline_s": most_s,
        "groups_a_batch": groups,
        "actions_per_s": round(actions / seen.wall_s),
        "simulation_cpu_us_per_action": round(1e6 * cpu_s / actions, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="a thousand and four thousand episodes")
    options = parser.parse_args()
    rows: list[dict[str, Json]] = []
    for episodes in (1_000, 4_000) if options.short else (1_000, 10_000, 100_000):
        engines = max(episodes // 1_500, 1)
        for staleness, most_s in ((1, 0.0), (4, 0.0), (4, 60.0), (4, 20.0)):
            rows.append(
                foresee(episodes, staleness, engines=engines, batches=3 * (staleness + 1), most_s=most_s)
            )
            row = rows[-1]
            print(
                f"{episodes:7} episodes  S={staleness}  deadline {most_s:g} s  {engines:3} engines  "
                f"{row['actions_per_s']} actions/s"
                f"  trainer idle {row['trainer_idle']:.2f}  engines busy {row['engine_busy']:.2f}"
                f"  {row['simulation_cpu_us_per_action']} us an action",
                flush=True,
            )
    largest = rows[-1]
    figures: dict[str, Json] = {
        "episodes": largest["episodes"],
        "actions_per_s": largest["actions_per_s"],
        "trainer_idle": largest["trainer_idle"],
        "cpu_us_per_action": largest["simulation_cpu_us_per_action"],
    }
    report("scale", figures, {"assumed": asdict(ASSUMED), "runs": rows})


if __name__ == "__main__":
    main()
