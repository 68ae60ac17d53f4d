"""Supervised steps on conversations that turned out well: every turn of the assistant's is imitated, whatever
else is said is read.

Tokens that were recorded are imitated as they were sampled. Other conversations, and those that a model of
another vocabulary had, are put into the model's chat template.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from agito.envs.prompts.data import Conversation
from agito.errors import BadRecipe
from agito.learning.credit import demonstrations
from agito.protocols import MAIN, Renderer, StepStats
from agito.record.recording import vocabulary_of
from agito.render import ChatRenderer
from agito.runtime.imitation_data import Sifted, sifted
from agito.runtime.run_context import RunContext
from agito.training.early_stop import EarlyStop
from agito.types import AttemptId, FinishReason, Sample, Trajectory, span

_BATCHES_A_CALL = 10


async def run_sft(
    run_context: RunContext,
    on_start: Callable[[int], None],
    on_step: Callable[[int, StepStats], None],
    on_note: Callable[[str], None],
) -> None:
    """As `sft` says; `on_note` is told what was left out. Raises `BadRecipe` when not one batch fits into the
    context.
    """
    recipe, policies = run_context.recipe.sft, run_context.policies
    learner, context = policies.main.learner, run_context.recipe.compute.context
    found = sifted(recipe)
    made = samples_for(found, policies.renderers[MAIN])
    samples = [sample for sample in made if len(sample.ids) <= context]
    too_long = len(made) - len(samples)
    told = f"{found.told()}; {too_long} of {len(made)} segments are longer than compute.context={context}"
    if len(samples) < recipe.batch:
        raise BadRecipe(f"{told}: {len(samples)} are left, and a step takes sft.batch={recipe.batch}")
    on_note(told if too_long else found.told())
    rng = random.Random(f"conversations/{run_context.recipe.seed}")
    orders = [rng.sample(range(len(samples)), len(samples)) for _ in range(recipe.epochs)]
    batches = [
        [samples[place] for place in order[at : at + recipe.batch]]
        for order in orders
        for at in range(0, len(order) - recipe.batch + 1, recipe.batch)
    ]
    on_start(len(batches))
    await learner.begin_phase("sft", len(batches), is_alone=False)
    steps, stop = count(), EarlyStop(-(-recipe.patience // recipe.batch), len(batches))
    for first in range(0, len(batches), _BATCHES_A_CALL):
        found = await learner.sft_step(batches[first : min(first + _BATCHES_A_CALL, stop.total)])
        for stats in found:
            on_step(next(steps), stats)
        num_new = len(batches) // recipe.epochs - first  # of the first epoch
        if num_new > 0 and stop.add(found[:num_new]):
            on_note(stop.reason)
            await learner.shorten_phase(stop.total)
        if first + _BATCHES_A_CALL >= stop.total:
            break
    await learner.sync()


def samples_for(found: Sifted, renderer: Renderer) -> list[Sample]:
    """Raises `BadRecipe` for recorded tokens of another vocabulary where none has the words."""
    recorded = [each for each in found.kept if isinstance(each, Trajectory)]
    if recorded and found.vocabulary == vocabulary_of(renderer):
        return [sample for each in recorded for sample in as_sampled(each)]
    is_wordless = bool(recorded) and not any(map(_has_words, recorded))
    if is_wordless or (recorded and not isinstance(renderer, ChatRenderer)):
        raise BadRecipe(
            f"{found.source}: its tokens are of another vocabulary or chat format than those of model.path, "
            "and it holds no messages to write anew; name the model that it is of"
            if is_wordless
            else f"{found.source}: its tokens are of another vocabulary than those of model.path, which has "
            "no chat template to write its messages anew; name the model that it is of"
        )
    if not isinstance(renderer, ChatRenderer):
        raise BadRecipe(
            "sft.messages: conversations need a model with a chat template; name one by model.path"
        )
    return samples_of(
        renderer,
        [
            _words(each) if isinstance(each, Trajectory) else each
            for each in found.kept
            if not isinstance(each, Trajectory) or _has_words(each)
        ],
    )


def as_sampled(trajectory: Trajectory) -> Iterable[Sample]:
    """Of the policy that is trained: its turns, without what nobody was answered, as a client had hung up."""
    for sample in demonstrations(trajectory):
        if sample.policy != MAIN:
            continue
        trainable = bytearray(len(sample.ids))
        for turn in trajectory.turns:
            if turn.segment == sample.segment and turn.stopped is not FinishReason.CANCELLED:
                trainable[turn.start : turn.stop] = sample.trainable[turn.start : turn.stop]
        if any(trainable):
            advantages = array("f", [float(mark) for mark in trainable])
            yield replace(sample, trainable=bytes(trainable), advantages=advantages)


def samples_of(renderer: ChatRenderer, told: Sequence[Conversation]) -> list[Sample]:
    """One for each stretch that the chat template does not rewrite, in their order."""
    found: list[Sample] = []
    for group, each in enumerate(told):
        for segment, (ids, trainable) in enumerate(renderer.stretches(each.messages, each.tools)):
            advantages = array("f", [float(mark) for mark in trainable])
            found.append(
                Sample(
                    attempt=AttemptId(group=group, slot=0),
                    segment=segment,
                    ids=ids,
                    trainable=trainable,
                    advantages=advantages,
                    logprobs=array("f", [math.nan]) * len(ids),
                    versions=span(0, len(ids)),
                )
            )
    return found


def _has_words(trajectory: Trajectory) -> bool:
    return any(message["role"] == "assistant" for message in trajectory.task.messages)


def _words(trajectory: Trajectory) -> Conversation:
    task = trajectory.task
    return Conversation(
        messages=tuple(dict(message) for message in task.messages),
        tools=tuple(tool.as_function() for tool in task.tools),
    )
