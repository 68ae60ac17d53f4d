"""Did RL do it? Compares it with imitation from the same cold start, at equal CPU seconds.

    python benchmarks/controls.py RUN [--only NAME]

The controls: more imitation, imitation of successes only, and expert iteration. RUN is a finished run; each
control starts from its cold start (`checkpoints/step-0`) and gets as many CPU seconds, of all its processes,
as RL took. Both times are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from agito import config
from agito.evaluation import policies
from agito.learning.credit import demonstrations
from agito.recipe import Recipe
from agito.record import rate
from agito.record.usage import UsageCounters
from agito.runtime.roles import Learner
from agito.runtime.run_context import RunContext, open_run_context
from agito.scheduling.curriculum import draw
from agito.scheduling.sync_scheduler import Quota
from agito.training import cold_start as coldstart
from agito.training.loop import RL_BASE
from agito.types import Attempt, Sample

_FRESH_BASE = 20_000_000  # of the training stream: tasks unseen by the cold start and RL
_CHUNK, _STRIDE = 400, 10_000  # attempts between two checks of the clock; task numbers reserved for them


async def continued(run_context: RunContext, index: int) -> tuple[Attempt, ...]:
    """Fresh demonstrations, good and bad, as in the cold start."""
    first = _FRESH_BASE - RL_BASE + index * _STRIDE
    numbers = draw(
        run_context.weights(run_context.recipe.sft.weights),
        _CHUNK,
        seed=str(run_context.recipe.seed),
        first=first,
    )
    quota = Quota(ids=[RL_BASE + number for number in numbers], group_size=1, max_live=8)
    plan = run_context.plan("train", RL_BASE, coldstart.demonstrator(run_context))
    return (await run_context.attempts(plan, [quota])).attempts


async def successes_only(run_context: RunContext, index: int) -> tuple[Attempt, ...]:
    """Fresh demonstrations without the failed ones."""
    return tuple(
        attempt
        for attempt in await continued(run_context, index)
        if attempt.is_trusted and attempt.verdict.reward == 1.0
    )


async def expert_iteration(run_context: RunContext, index: int) -> tuple[Attempt, ...]:
    """The policy's own attempts, as many per task as in RL; the successful ones are imitated."""
    recipe = run_context.recipe
    share = _CHUNK // recipe.rl.group_size // recipe.compute.ranks
    first = _FRESH_BASE + index * _STRIDE
    quotas = [
        Quota(
            ids=range(first + rank * share, first + (rank + 1) * share),
            group_size=recipe.rl.group_size,
            max_live=recipe.compute.max_num_seqs,
        )
        for rank in range(recipe.compute.ranks)
    ]
    collected = await run_context.attempts(
        run_context.plan("train", RL_BASE), quotas, temperature=recipe.rl.temperature
    )
    return tuple(
        attempt for attempt in collected.attempts if attempt.is_trusted and attempt.verdict.reward == 1.0
    )


CONTROLS: dict[str, Callable[[RunContext, int], Awaitable[tuple[Attempt, ...]]]] = {
    "continued_sft": continued,
    "sft_on_successes": successes_only,
    "expert_iteration": expert_iteration,
}


async def run_control(run: Path, name: str) -> dict[str, float]:
    """Success on the run's held-out tasks after the control has used as many CPU seconds as the run's RL.

    The next demonstrations are made while the last are imitated, as in the cold start; the policy's own
    attempts are not, because they must be its latest.
    """
    recipe = _with_rates_of_rl(config.read(Recipe, run / "config.toml"))
    budget_s = cpu_s_of_rl(json.loads((run / "summary.json").read_text()))
    checkpoint = run / "checkpoints" / "step-0"
    async with open_run_context(recipe) as run_context:
        run_context.policies.use_tokenizer_of(checkpoint)
        await run_context.policies.open()
        policy = run_context.policies.main
        await policy.learner.load(checkpoint, weights_only=True)
        await policy.publish(1_000_000)
        began, began_cpu_s = time.monotonic(), _cpu_s()
        rounds, steps = await _imitate_until(run_context, name, began_cpu_s + budget_s)
        spent_s, spent_cpu_s = time.monotonic() - began, _cpu_s() - began_cpu_s
        await policy.learner.sync()
        await policy.publish(2_000_000)
        after = rate(
            await policies.policy(
                run_context, "heldout", recipe.eval.tasks, temperature=recipe.eval.temperature
            )
        )
    return {
        "success": after.success,
        "low": after.low,
        "high": after.high,
        "wall_s": spent_s,
        "cpu_s": spent_cpu_s,
        "cpu_s_of_rl": budget_s,
        "rounds": rounds,
        "steps": steps,
    }


def _with_rates_of_rl(recipe: Recipe) -> Recipe:
    """The cold start decayed to zero; the control begins and decays as RL does."""
    rates = recipe.trainer.rl
    sft = recipe.trainer.sft.model_copy(
        update={
            "lr": rates.lr,
            "adam_lr": rates.adam_lr,
            "warmup": 0.0,
            "decay": rates.decay,
            "floor": rates.floor,
        }
    )
    return recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"sft": sft})})


def cpu_s_of_rl(summary: Mapping[str, Any]) -> float:
    """For a run of before phases had CPU seconds: RL's share of its wall time."""
    phases, walls = summary.get("phase_cpu_s", {}), summary["phase_wall_s"]
    return float(phases.get("rl") or summary["cpu_s"] * walls["rl"] / sum(walls.values()))


def _cpu_s() -> float:
    return UsageCounters().cpu_s()


async def _imitate_until(run_context: RunContext, name: str, ends_at: float) -> tuple[int, int]:
    """Rounds and steps of the control `name`; `ends_at` counts CPU seconds."""
    recipe, policy = run_context.recipe, run_context.policies.main
    rng, rounds, steps, began = random.Random(f"{name}/{recipe.seed}"), 0, 0, _cpu_s()
    is_alone = not recipe.model.path  # as in the cold start
    made = await CONTROLS[name](run_context, 0)
    while _cpu_s() < ends_at:
        kept = [sample for attempt in made for sample in demonstrations(attempt.trajectory)]
        rng.shuffle(kept)
        size = recipe.sft.batch
        batches = [kept[at : at + size] for at in range(0, len(kept) - size + 1, size)]
        # one round to measure its duration, then the phase decays over the time left
        if rounds < 2:
            pace_s = (_cpu_s() - began) / max(rounds, 1)
            left = 1_000_000 if rounds == 0 else len(batches) * ((ends_at - began) / pace_s - 1)
            await policy.learner.begin_phase("sft", max(int(left), 1), is_alone=is_alone)
        rounds += 1
        if name == "expert_iteration":
            await _run_sft(policy.learner, batches)
            await policy.learner.sync()
            await policy.publish(1_000_000 + rounds)
            made = await CONTROLS[name](run_context, rounds)
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_run_sft, policy.learner, batches)
                made = await CONTROLS[name](run_context, rounds)
        steps += len(batches)
    return rounds, steps


async def _run_sft(learner: Learner, batches: Sequence[Sequence[Sample]]) -> None:
    for at in range(0, len(batches), 10):
        await learner.sft_step(batches[at : at + 10])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", choices=list(CONTROLS))
    options = parser.parse_args()
    found = {
        name: anyio.run(run_control, options.run, name)
        for name in ([options.only] if options.only else CONTROLS)
    }
    for name, figures in found.items():
        print(
            f"{name:18} {figures['success']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}] after "
            f"{figures['wall_s']:.0f} s, {figures['cpu_s']:.0f} CPU seconds"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
