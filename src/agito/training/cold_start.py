"""From nothing to a policy that can begin: a vocabulary, demonstrations through the same harness, supervised
steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import anyio

from agito.errors import BadRecipe
from agito.harness import TeamHarness
from agito.learning.credit import demonstrations
from agito.protocols import MAIN, ScriptFactory, StepStats, TeamDemonstrated, ThinksAhead, Thoughtful
from agito.runtime.roles import Learner
from agito.runtime.run_context import RunContext
from agito.scheduling.curriculum import draw
from agito.scheduling.sync_scheduler import Quota
from agito.training import conversations
from agito.training.early_stop import EarlyStop
from agito.types import Attempt, AttemptId, Sample, Target, Task, ThinkingTurns

DEMO_BASE = 0
_BATCHES_A_CALL = 10
_LIVE = 12  # demonstrations at a time
_TOKENIZER_BASE = 500_000  # of the training stream, so that no demonstration is among them


def demonstrator(run_context: RunContext) -> Callable[[Task, Target, AttemptId], ScriptFactory]:
    """The environment's imperfect script, at the recipe's skill: a team's where there is one."""
    environment, roles = run_context.environment, run_context.harness.roles
    if not isinstance(run_context.harness, TeamHarness) or not isinstance(environment, TeamDemonstrated):
        return _alone(run_context)
    skill, seed = run_context.recipe.sft.skill, run_context.recipe.seed << 32
    return lambda task, target, attempt: environment.team_demonstrator(
        task, target, role=roles[-1], skill=skill, seed=seed | attempt.group
    )


def _alone(run_context: RunContext) -> Callable[[Task, Target, AttemptId], ScriptFactory]:
    """One agent that shows how, in turn at the recipe's efforts. Raises `BadRecipe` where nobody shows how to
    think.
    """
    environment, recipe = run_context.environment, run_context.recipe
    if recipe.effort.is_on:
        if not isinstance(environment, Thoughtful):
            raise BadRecipe(
                f"effort.settings: {environment.name} has no demonstrators that think; give `thinker`, or "
                "imitate conversations (sft.messages)"
            )
        num_cells = len(run_context.cells)

        def thinker(task: Task, target: Target, attempt: AttemptId) -> ScriptFactory:
            number, cell = divmod(attempt.group - DEMO_BASE, num_cells)
            asked = recipe.effort.in_turn(number, cell=cell)
            assert asked is not None
            seed, skill = recipe.seed << 32 | attempt.group, recipe.sft.skill
            if isinstance(environment, ThinksAhead) and asked.turns is not ThinkingTurns.EVERY:
                again = asked.turns is ThinkingTurns.AFTER_FAULTS
                return environment.planner(
                    task, target, effort=asked.effort, again=again, skill=skill, seed=seed
                )
            return environment.thinker(task, target, effort=asked.effort, skill=skill, seed=seed)

        return thinker
    return lambda task, target, attempt: environment.demonstrator(
        task, target, skill=recipe.sft.skill, seed=recipe.seed << 32 | attempt.group
    )


async def train_tokenizer(run_context: RunContext, on_episode: Callable[[], None] = lambda: None) -> None:
    """Learns the run's vocabulary from what demonstrators say and read. Raises `BadRecipe` when openings then
    do not fit.
    """
    script = _alone(run_context)
    vocabulary = await run_context.train_tokenizer(
        run_context.recipe.sft.tokenizer_episodes,
        lambda task, target, index: script(task, target, AttemptId(group=_TOKENIZER_BASE + index, slot=0)),
        on_episode=on_episode,
    )
    run_context.policies.use_vocabulary(vocabulary)
    run_context.require_room()


async def run_sft(
    run_context: RunContext,
    on_start: Callable[[int], None],
    on_step: Callable[[int, StepStats], None],
    on_note: Callable[[str], None] = lambda text: None,
) -> tuple[Attempt, ...]:
    """Supervised steps. With a pre-trained model every rank takes part from the beginning. From random
    weights, one rank alone trains the first epoch while demonstrations are still being made; the others join
    for the second.

    Calls `on_start` with the number of steps, then `on_step` for each; `on_note` is told why there were fewer
    (`sft.patience`). Returns the demonstrations, good and bad alike, as many of each cell as the recipe says,
    or, where it ended early, those of the steps that were taken; penalised ones are not shown. Raises
    `BadRecipe` for too many demonstrations, or less than one batch.
    """
    recipe, learners = run_context.recipe.sft, imitating(run_context)
    if recipe.messages:
        await conversations.run_sft(run_context, on_start, on_step, on_note)
        return ()
    if not recipe.demos:  # the model is there already
        return ()
    numbers = draw(run_context.weights(recipe.weights), recipe.demos, seed=str(run_context.recipe.seed))
    if max(numbers) >= _TOKENIZER_BASE:
        raise BadRecipe(
            f"sft.weights are so uneven that task numbers reach {_TOKENIZER_BASE}, where those of the "
            "tokenizer begin: lower sft.demos or even out sft.weights"
        )
    epochs = _batches(run_context, len(numbers))
    places = {DEMO_BASE + number: place for place, number in enumerate(numbers)}
    quota = Quota(ids=[DEMO_BASE + number for number in numbers], group_size=1, max_live=_LIVE)
    buffer, made = _DemoBuffer(places, max_tries=quota.max_tries), list[Attempt]()

    async def demonstrate() -> None:
        collected = await run_context.attempts(
            run_context.plan("train", DEMO_BASE, demonstrator(run_context)), [quota], on_attempt=buffer.add
        )
        made.extend(collected.attempts)
        buffer.complete()

    num_steps = sum(map(len, epochs))
    stop = EarlyStop(-(-recipe.patience // recipe.batch), num_steps)
    on_start(num_steps)
    # a large model is learned far more slowly than demonstrations are made
    is_alone = not run_context.recipe.model.path
    for learner in learners.values():
        await learner.begin_phase("sft", num_steps, is_alone=is_alone)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(demonstrate)
        await _show(learners, epochs, buffer, stop, on_step, on_note, is_alone=is_alone)
        if stop.total < num_steps:
            tasks.cancel_scope.cancel()
    for learner in learners.values():
        await learner.sync()
    return buffer.taken() if stop.total < num_steps else tuple(made)


def imitating(run_context: RunContext) -> dict[str, Learner]:
    """By policy: those that demonstrations are shown to, `main` first. Each learns from what its own agents
    say in them.
    """
    policies, sections = run_context.policies, run_context.recipe.policies
    return {
        name: handle.learner
        for name, handle in policies.learning.items()
        if name == MAIN or sections[name].imitates
    }


async def _show(
    learners: Mapping[str, Learner],
    epochs: Sequence[Sequence[Sequence[int]]],
    buffer: _DemoBuffer,
    stop: EarlyStop,
    on_step: Callable[[int, StepStats], None],
    on_note: Callable[[str], None],
    *,
    is_alone: bool,
) -> None:
    """What is reported, and what ends it early, is the loss of `main`."""
    step = 0
    for epoch, batches in enumerate(epochs):
        for learner in learners.values() if epoch == 1 and is_alone else ():
            await learner.join()
        for first in range(0, len(batches), _BATCHES_A_CALL):
            left = stop.total - step
            if left <= 0:
                break
            chosen = batches[first : first + min(_BATCHES_A_CALL, left)]
            samples = [await buffer.take(batch) for batch in chosen]
            found = {
                name: await learner.sft_step([own for batch in samples if (own := _of(name, batch))])
                for name, learner in learners.items()
            }
            for stats in found[MAIN]:
                on_step(step, stats)
                step += 1
            if epoch == 0 and stop.add(found[MAIN]):
                on_note(stop.reason)
                for learner in learners.values():
                    await learner.shorten_phase(stop.total)


def _of(policy: str, samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.policy == policy]


def _batches(run_context: RunContext, count: int) -> list[list[list[int]]]:
    """By epoch. Raises `BadRecipe` if there is none."""
    size, times = run_context.recipe.sft.batch, run_context.recipe.sft.epochs
    if count < size:
        raise BadRecipe("there is not one full batch of demonstrations: raise sft.demos or lower sft.batch")
    return [
        [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
        for order in practice(count, times=times, seed=run_context.recipe.seed)
    ]


def practice(count: int, *, times: int, seed: int) -> list[list[int]]:
    """The order in which `count` demonstrations are shown, each once an epoch: as they come in the first,
    shuffled in the others.
    """
    rng = random.Random(f"sft/{seed}")
    return [list(range(count)), *(rng.sample(range(count), count) for _ in range(times - 1))]


class _DemoBuffer:
    """Demonstrations by position. Void and penalised ones contribute no samples."""

    def __init__(self, places: Mapping[int, int], *, max_tries: int) -> None:
        self._places, self._max_tries = places, max_tries  # places by group
        self._attempts: dict[int, Attempt] = {}  # those that are not tried again
        self._samples: dict[int, tuple[Sample, ...]] = {}
        self._taken = set[int]()
        self._news = anyio.Event()
        self._is_complete = False

    def add(self, attempt: Attempt) -> None:
        key = attempt.trajectory.attempt
        if not attempt.is_scored and key.tries + 1 < self._max_tries:
            return
        found = demonstrations(attempt.trajectory) if attempt.is_trusted else ()
        place = self._places[key.group]
        self._attempts[place] = attempt
        self._samples[place] = tuple(found)
        self._news.set()

    def complete(self) -> None:
        """No more will come."""
        self._is_complete = True
        self._news.set()

    async def take(self, places: Sequence[int]) -> list[Sample]:
        """Waits for as long as demonstrations are made, each of which has its deadlines."""
        while not self._is_complete and not all(place in self._samples for place in places):
            self._news = anyio.Event()
            await self._news.wait()
        self._taken.update(places)
        return [sample for place in places for sample in self._samples.get(place, ())]

    def taken(self) -> tuple[Attempt, ...]:
        """By place, however many others there are by now."""
        return tuple(self._attempts[place] for place in sorted(self._taken) if place in self._attempts)
