"""Did RL do it? From the same cold start and in the same time: more imitation, imitation of successes only,
expert iteration.

    python benchmarks/controls.py RUN [--only NAME]

RUN is a finished run; its cold start (`checkpoints/step-0`) and the seconds that its RL took are what every
control gets. Time, not CPU-seconds, is held equal, on the same machine; both are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from agito import config
from agito.evaluation import policies as evaluation
from agito.learning.credit import demonstrations
from agito.recipe import Recipe
from agito.record import rate
from agito.runtime.roles import Learner
from agito.runtime.run_context import RunContext, open_run_context
from agito.scheduling.curriculum import draw
from agito.scheduling.schedule import Quota
from agito.training import cold_start as coldstart
from agito.training.loop import RL_BASE
from agito.types import Attempt, Sample

_FRESH_BASE = 20_000_000  # of the training stream: tasks that neither the cold start nor RL has seen
_CHUNK, _STRIDE = 400, 10_000  # attempts between two looks at the clock; task numbers kept for them


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
    """Fresh demonstrations; those that failed are thrown away."""
    return tuple(
        attempt
        for attempt in await continued(run_context, index)
        if attempt.is_trusted and attempt.verdict.reward == 1.0
    )


async def expert_iteration(run_context: RunContext, index: int) -> tuple[Attempt, ...]:
    """The policy's own attempts, as many a task as RL makes; the successful ones are imitated."""
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
    """Success on the run's own held-out tasks after as many seconds of the control as the run's RL took.

    The next demonstrations are made beside the imitation of the last, as in the cold start; the policy's own
    attempts are not, because they are to be its latest.
    """
    recipe = config.read(Recipe, run / "config.toml")
    rates = recipe.trainer.rl  # the cold start ended at nothing; the control begins and decays as RL does
    sft = recipe.trainer.sft.model_copy(
        update={
            "lr": rates.lr,
            "adam_lr": rates.adam_lr,
            "warmup": 0.0,
            "decay": rates.decay,
            "floor": rates.floor,
        }
    )
    recipe = recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"sft": sft})})
    budget_s = json.loads((run / "summary.json").read_text())["phase_wall_s"]["rl"]
    checkpoint = run / "checkpoints" / "step-0"
    async with open_run_context(recipe) as run_context:
        run_context.policies.use_tokenizer_of(checkpoint)
        await run_context.policies.open()
        policy = run_context.policies.main
        await policy.learner.load(checkpoint, weights_only=True)
        await policy.publish(1_000_000)
        rng, rounds, steps, began = random.Random(f"{name}/{recipe.seed}"), 0, 0, time.monotonic()
        made = await CONTROLS[name](run_context, 0)
        while time.monotonic() - began < budget_s:
            kept = [sample for attempt in made for sample in demonstrations(attempt.trajectory)]
            rng.shuffle(kept)
            size = recipe.sft.batch
            batches = [kept[at : at + size] for at in range(0, len(kept) - size + 1, size)]
            # one round to see how long a round takes, then the phase that decays over what is left
            if rounds < 2:
                pace_s = (time.monotonic() - began) / max(rounds, 1)
                left = 1_000_000 if rounds == 0 else len(batches) * (budget_s / pace_s - 1)
                await policy.learner.begin_phase("sft", max(int(left), 1), is_alone=True)
            rounds += 1
            if name == "expert_iteration":
                await _imitate(policy.learner, batches)
                await policy.learner.sync()
                await policy.publish(1_000_000 + rounds)
                made = await CONTROLS[name](run_context, rounds)
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_imitate, policy.learner, batches)
                    made = await CONTROLS[name](run_context, rounds)
            steps += len(batches)
        spent_s = time.monotonic() - began
        await policy.learner.sync()
        await policy.publish(2_000_000)
        after = rate(
            await evaluation.policy(
                run_context, "heldout", recipe.eval.tasks, temperature=recipe.eval.temperature
            )
        )
    return {
        "success": after.success,
        "low": after.low,
        "high": after.high,
        "wall_s": spent_s,
        "rounds": rounds,
        "steps": steps,
    }


async def _imitate(learner: Learner, batches: Sequence[Sequence[Sample]]) -> None:
    for at in range(0, len(batches), 10):
        await learner.imitate(batches[at : at + 10])


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
            f"{figures['wall_s']:.0f} s"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
