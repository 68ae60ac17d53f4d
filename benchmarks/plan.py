"""Are the predictions of `agito plan` right?

    python benchmarks/plan.py [--repeats 5] [--steps 12] [--only heavy] [--short]

For added tool latencies of 50 ms, 1 s and a heavy tail (median 0.2 s, p99 20 times that), and staleness 1 and
4: seconds per step of the real decoupled loop, and of the simulator after one calibration on this machine.
Each repeat has its own draws from the tail, and the simulator gets the same ones: a short run waits for its
few slowest calls, so runs differ. How much they may differ is simulated too: the range of nine in ten runs.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import anyio

from agito.recipe import Recipe
from agito.scheduling.async_scheduler import SchedulerRules
from agito.testing.relay import HEAVY_MEDIAN_S, HEAVY_RATIO, Relay, latency_s
from agito.training.loop import RL_BASE
from agito.training.planning.calibrate import calibrate, measure
from agito.training.planning.simulate import Simulation
from agito.types import AttemptId
from harness import Json, report

_TURNS, _TURN_TOKENS, _WORDS = 6, 16, 12
_GROUPS, _SIZE, _ROWS = 8, 4, 320
_DRAWN = 200  # simulated runs
_TOOLS = {"0.05": (0.05, 0.0), "1": (1.0, 0.0), "heavy": (HEAVY_MEDIAN_S, HEAVY_MEDIAN_S * HEAVY_RATIO)}


def recipe_of(staleness: int, steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"vocab_size": 300},
            "compute": {"ranks": 2, "max_num_seqs": _ROWS, "context": 384},
            "rl": {
                "steps": steps,
                "groups": _GROUPS,
                "group_size": _SIZE,
                "oversampling": 1.0,
                "adaptive_sampling": False,
            },
            "pipeline": {"mode": "decoupled", "max_staleness": staleness},
        }
    )


async def real(tool: str, staleness: int, steps: int, seed: int) -> float:
    world = Relay(tool, turns=_TURNS, turn_tokens=_TURN_TOKENS, words=_WORDS, seed=seed)
    seen = await measure(recipe_of(staleness, steps), world, steps=steps)
    return seen.wall_s / steps


async def simulated(tool: str, staleness: int, steps: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds per step: of runs with the waits of the real ones, and of runs with their own draws."""
    median_s, p99_s = _TOOLS[tool]
    latencies = await calibrate(
        recipe_of(0, steps),
        turns=_TURNS,
        turn_tokens=_TURN_TOKENS,
        words=_WORDS,
        tool_median_s=median_s,
        tool_p99_s=p99_s,
    )
    rules = SchedulerRules(
        groups=_GROUPS, group_size=_SIZE, batches=steps, max_staleness=staleness, max_live=_ROWS
    )

    def wait_s(seed: int, attempt: AttemptId, call: int) -> float:
        return latency_s(tool, AttemptId(group=RL_BASE + attempt.group, slot=attempt.slot), call, seed=seed)

    alike = [
        Simulation(rules, latencies, seed=seed, wait_s=partial(wait_s, seed)).run().step_s
        for seed in range(repeats)
    ]
    return alike, [Simulation(rules, latencies, seed=seed).run().step_s for seed in range(_DRAWN)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", choices=list(_TOOLS), help="one of the three latencies")
    parser.add_argument("--short", action="store_true", help="one repeat of two of the six")
    options = parser.parse_args()
    cases = (
        [("1", 1), ("heavy", 4)]
        if options.short
        else [(tool, staleness) for tool in _TOOLS if options.only in (None, tool) for staleness in (1, 4)]
    )
    predicted: dict[str, Json] = {}
    measured: dict[str, Json] = {}
    errors: dict[str, Json] = {}
    detail: dict[str, Json] = {}
    repeats = 1 if options.short else options.repeats
    for tool, staleness in cases:
        name = f"{tool}, S={staleness}"
        alike, drawn = anyio.run(simulated, tool, staleness, options.steps, repeats)
        found = [anyio.run(real, tool, staleness, options.steps, seed) for seed in range(repeats)]
        foreseen_s, middle_s = statistics.median(alike), statistics.median(found)
        low_s, high_s = (sorted(drawn)[round(share * (_DRAWN - 1))] for share in (0.05, 0.95))
        predicted[name], measured[name], errors[name] = (
            round(foreseen_s, 3),
            round(middle_s, 3),
            round(foreseen_s / middle_s - 1, 3),
        )
        detail[name] = {
            "foreseen": [round(seconds, 3) for seconds in alike],
            "measured": [round(seconds, 3) for seconds in found],
            "nine_of_ten": [round(low_s, 3), round(high_s, 3)],
        }
        print(
            f"{name:12} foreseen {foreseen_s:.3f} s, measured {middle_s:.3f} s: "
            f"{foreseen_s / middle_s - 1:+.1%}",
            flush=True,
        )
    report("plan", {"predicted": predicted, "measured": measured, "relative_error": errors}, detail)


if __name__ == "__main__":
    main()
