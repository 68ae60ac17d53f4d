"""Does the overlapped loop learn as well as the on-policy one?

    python benchmarks/equal_learning.py RUN... [--staleness 1 2 4 8]

Each RUN is a finished on-policy run of the quickstart, one per seed; it is the first arm. Every other arm
starts from its cold start (`checkpoints/step-0`), takes as many steps and is evaluated on the same held-out
tasks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import anyio

from agito import config
from agito.evaluation import policies as evaluation
from agito.recipe import Recipe
from agito.record import rate, read_trajectories
from agito.record.intervals import Rate
from agito.runtime.run_context import open_run_context
from agito.scheduling.curriculum import Curriculum
from agito.training import async_loop
from agito.training.loop import Step
from harness import Json, report


def on_policy(run: Path) -> tuple[Rate, float]:
    """Success after RL, and the seconds of RL, including its records and checkpoints."""
    assert config.read(Recipe, run / "config.toml").pipeline.mode == "on_policy"
    attempts = [recorded.attempt for recorded in read_trajectories(run / "trajectories/after-00000.parquet")]
    return rate(attempts), float(json.loads((run / "summary.json").read_text())["phase_wall_s"]["rl"])


async def decoupled(run: Path, staleness: int) -> tuple[Rate, float]:
    """The same with overlap; nothing is written."""
    recipe = config.read(Recipe, run / "config.toml")
    section = recipe.pipeline.model_copy(update={"mode": "decoupled", "max_staleness": staleness})
    # one engine does the work of two
    compute = recipe.compute.model_copy(update={"max_num_seqs": 2 * recipe.compute.max_num_seqs})
    recipe = recipe.model_copy(update={"pipeline": section, "compute": compute})
    versions, oldest = itertools.count(1), list[float]()

    async def on_step(step: Step, position: async_loop.Position) -> None:
        oldest.append(step.metrics.get("age/max_versions", 0.0))

    async with open_run_context(recipe) as run_context:
        run_context.policies.use_tokenizer_of(run / "checkpoints/step-0")
        await run_context.policies.open()
        await run_context.policies.main.learner.load(run / "checkpoints/step-0", weights_only=True)
        curriculum = Curriculum(
            len(run_context.cells), parts=run_context.parts, solve_rate=recipe.rl.solve_rate
        )
        began = time.monotonic()
        await async_loop.train(
            run_context,
            curriculum,
            start=0,
            position=async_loop.Position(),
            on_step=on_step,
            new_version=lambda: next(versions),
        )
        took_s = time.monotonic() - began
        assert max(oldest) <= staleness, oldest
        await run_context.policies.publish(next(versions))
        return rate(
            await evaluation.policy(
                run_context, "heldout", recipe.eval.tasks, temperature=recipe.eval.temperature
            )
        ), took_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--staleness", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args()
    arms: list[int | None] = [None, *options.staleness]
    found: dict[str, list[tuple[Rate, float]]] = {}
    for run in options.runs:
        for staleness in arms:
            name = "on_policy" if staleness is None else f"decoupled_{staleness}"
            found.setdefault(name, []).append(
                on_policy(run) if staleness is None else anyio.run(decoupled, run, staleness)
            )
            success, took_s = found[name][-1]
            print(
                f"{run.name} {name:12} {success.success:.3f} [{success.low:.3f}, {success.high:.3f}] in "
                f"{took_s:.0f} s",
                flush=True,
            )
    figures: dict[str, Json] = {}
    detail: dict[str, Json] = {}
    for name, each in found.items():
        values = [success.success for success, _ in each]
        mean = statistics.fmean(values)
        margin = (
            _T95.get(len(values), 2.0) * statistics.stdev(values) / len(values) ** 0.5
            if len(values) > 1
            else 0.0
        )
        figures[name] = [round(mean, 4), round(mean - margin, 4), round(min(mean + margin, 1.0), 4)]
        detail[name] = {
            "success_by_seed": [round(value, 4) for value in values],
            "rl_wall_s": [round(took_s, 1) for _, took_s in each],
        }
    report("equal_learning", figures, detail)


# Student's t by number of seeds
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


if __name__ == "__main__":
    main()
