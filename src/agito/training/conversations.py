"""Supervised steps on conversations from a file: every turn of the assistant's is imitated, whatever else is
said is read.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from itertools import count

from agito.envs.prompts.data import Conversation, read_conversations
from agito.errors import BadRecipe
from agito.protocols import MAIN, StepStats
from agito.render import ChatRenderer
from agito.runtime.run_context import RunContext
from agito.types import AttemptId, Sample, span

_BATCHES_A_CALL = 10


async def run_sft(
    run_context: RunContext, on_start: Callable[[int], None], on_step: Callable[[int, StepStats], None]
) -> None:
    """As `sft` says. Raises `BadRecipe` when not one batch of conversations fits into the context."""
    recipe, policies = run_context.recipe.sft, run_context.policies
    learner, renderer = policies.main.learner, policies.renderers[MAIN]
    if not isinstance(renderer, ChatRenderer):
        raise BadRecipe(
            "sft.messages: conversations need a model with a chat template; name one by model.path"
        )
    context = run_context.recipe.compute.context
    told = read_conversations(recipe.messages)
    samples = [sample for sample in samples_of(renderer, told) if len(sample.ids) <= context]
    if len(samples) < recipe.batch:
        raise BadRecipe(
            f"sft.messages={recipe.messages}: {len(samples)} of {len(told)} conversations fit into "
            f"compute.context={context}, "
            f"and a step takes sft.batch={recipe.batch}"
        )
    rng = random.Random(f"conversations/{run_context.recipe.seed}")
    orders = [rng.sample(range(len(samples)), len(samples)) for _ in range(recipe.epochs)]
    batches = [
        [samples[place] for place in order[at : at + recipe.batch]]
        for order in orders
        for at in range(0, len(order) - recipe.batch + 1, recipe.batch)
    ]
    on_start(len(batches))
    await learner.begin_phase("sft", len(batches), is_alone=False)
    steps = count()
    for first in range(0, len(batches), _BATCHES_A_CALL):
        for stats in await learner.sft_step(batches[first : first + _BATCHES_A_CALL]):
            on_step(next(steps), stats)
    await learner.sync()


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
