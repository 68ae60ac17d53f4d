"""Is what `agito plan` foresees what then happens?

    python benchmarks/plan.py [--repeats 5] [--steps 12] [--short]

For added tool latencies of 50 ms, 1 s and a heavy tail (median 0.2 s, p99 20 times that), and staleness 1 and 4: seconds a step of the
real decoupled loop, median over repeats, each with draws of its own from the distribution, beside the simulator's median, which was fed
with one calibration on this machine before.
"""

from __future__ import annotations

import argparse
import statistics

import anyio

from agito.calibrate import calibrate, observe
from agito.plan import Simulation
from agito.recipe import Recipe
from agito.schedule import FlowRules
from agito.testing.relay import HEAVY_MEDIAN_S, HEAVY_RATIO, Relay
from harness import Json, report, spread

_TURNS, _TURN_TOKENS, _WORDS = 6, 16, 12
_GROUPS, _SIZE, _ROWS = 8, 4, 320
_SIMULATED = 25  # runs
_TOOLS = {"0.05": (0.05, 0.0), "1": (1.0, 0.0), "heavy": (HEAVY_MEDIAN_S, HEAVY_MEDIAN_S * HEAVY_RATIO)}


def recipe_of(staleness: int, steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"vocab_size": 300},
            "compute": {"ranks": 2, "rows": _ROWS, "context": 384},
            "rl": {"steps": steps, "groups": _GROUPS, "group_size": _SIZE, "refill": 1.0, "follow": False},
            "pipeline": {"mode": "decoupled", "max_staleness": staleness},
        }
    )


async def real(tool: str, staleness: int, steps: int, seed: int) -> float:
    world = Relay(tool, turns=_TURNS, turn_tokens=_TURN_TOKENS, words=_WORDS, seed=seed)
    seen = await observe(recipe_of(staleness, steps), world, steps=steps)
    return seen.wall_s / steps


async def simulated(tool: str, staleness: int, steps: int) -> float:
    median_s, p99_s = _TOOLS[tool]
    latencies = await calibrate(
        recipe_of(0, steps), turns=_TURNS, turn_tokens=_TURN_TOKENS, words=_WORDS, tool_median_s=median_s, tool_p99_s=p99_s
    )
    rules = FlowRules(groups=_GROUPS, group_size=_SIZE, batches=steps, max_staleness=staleness, max_live=_ROWS)
    return statistics.median(Simulation(rules, latencies, seed=seed).run().step_s for seed in range(_SIMULATED))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--short", action="store_true", help="one repeat of two of the six")
    options = parser.parse_args()
    cases = [("1", 1), ("heavy", 4)] if options.short else [(tool, staleness) for tool in _TOOLS for staleness in (1, 4)]
    predicted: dict[str, Json] = {}
    measured: dict[str, Json] = {}
    errors: dict[str, Json] = {}
    detail: dict[str, Json] = {}
    for tool, staleness in cases:
        name = f"{tool}, S={staleness}"
        foreseen_s = anyio.run(simulated, tool, staleness, options.steps)
        found = [anyio.run(real, tool, staleness, options.steps, seed) for seed in range(1 if options.short else options.repeats)]
        middle = statistics.median(found)
        predicted[name], measured[name], detail[name] = round(foreseen_s, 3), round(middle, 3), spread(found)
        errors[name] = round(foreseen_s / middle - 1, 3)
        print(f"{name:12} foreseen {foreseen_s:.3f} s, measured {middle:.3f} s: {foreseen_s / middle - 1:+.1%}", flush=True)
    report("plan", {"predicted": predicted, "measured": measured, "relative_error": errors}, detail)


if __name__ == "__main__":
    main()
