"""A few attempts and two steps of learning, within a bounded time: what a recipe's steps will take here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from agito.learning.credit import demonstrations
from agito.protocols import MAIN, Unscripted
from agito.recipe import Recipe
from agito.runtime.roles import Sampler
from agito.runtime.run_context import RunContext, open_run_context
from agito.sampling.wire import EngineRequest, EngineResponse, ScoreRequest, ScoreResponse
from agito.scheduling.sync_scheduler import Quota
from agito.training import cold_start
from agito.types import Attempt, Sample

PROBE_S = 20.0  # from when the model is loaded, which has deadlines of its own
_SURVEY = 16  # demonstrated episodes that a vocabulary is learned from
_LEARN_S = 3.0  # of a step of learning, if it takes more than one demonstration for that
_MOST_SHOWN = 64  # demonstrations
_FEW, _MANY = 4, 64  # attempts in each process
_BASE = 900_000  # of task numbers, far from those of a run


@dataclass(slots=True, kw_only=True)
class Probe:
    """What came out within the time; 0 where nothing did."""

    learned_tokens: int = 0  # in a step, all that passed through the network
    learned_s: float = 0.0
    sampled_s: float = 0.0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    turn_tokens: int = 0  # sampled in turns that ended, of attempts that may not have
    turns_s: float = 0.0  # until the last of them ended
    shown: list[Sample] = field(default_factory=list[Sample])  # the last demonstrations
    is_scripted: bool = True  # whether the environment has demonstrations
    are_first: bool = False  # the attempts: few, and with all that is done once
    turn_limit: int = 0  # tokens
    rss_bytes: int = 0  # of this process and its workers, at their largest

    @property
    def sampled_tokens(self) -> float:
        """Of an attempt, on average; of a demonstration where no attempt ended."""
        if self.attempts:
            return sum(each.trajectory.num_sampled for each in self.attempts) / len(self.attempts)
        return sum(sample.num_trainable for sample in self.shown) / max(len(self.shown), 1)

    @property
    def all_tokens(self) -> float:
        """The same, with what was read."""
        if self.attempts:
            segments = [segment for each in self.attempts for segment in each.trajectory.segments]
            return sum(len(segment.tokens.ids) for segment in segments) / len(self.attempts)
        return _num_tokens(self.shown) / max(len(self.shown), 1)

    def step_s(self, recipe: Recipe) -> tuple[float, float] | None:
        """Seconds of sampling and of learning in an RL step; None where the probe did not get that far. Where
        no attempt ended, their openings count wholly against the turns that did, so the first is too
        large; the second counts prefixes that attempts share as often as they are there.
        """
        num = recipe.rl.groups * recipe.rl.group_size
        if self.attempts:
            acting = num * self.sampled_s / len(self.attempts)
        elif self.turn_tokens:
            acting = num * self.sampled_tokens * self.turns_s / self.turn_tokens
        else:
            return None
        return acting, num * self.all_tokens * self.learned_s / self.learned_tokens

    def cold_start_s(self, recipe: Recipe) -> float | None:
        """Seconds of imitation, from how long the last demonstrations took to learn from; None where there
        were none, and for conversations, whose lengths are not looked at.
        """
        sft = recipe.sft
        if sft.messages or not self.shown or not self.learned_tokens:
            return None
        seen = sft.epochs * sft.demos // sft.batch * sft.batch
        tokens = seen * _num_tokens(self.shown) / len(self.shown)
        return tokens * self.learned_s / self.learned_tokens


async def probe(recipe: Recipe, *, seconds: float = PROBE_S) -> Probe:
    """Raises what opening the recipe's model and environment raises."""
    found = Probe()
    async with open_run_context(_small(recipe)) as run_context:
        run_context.policies.start_workers()
        if not recipe.model.path:
            await cold_start.train_tokenizer(run_context)
        await run_context.policies.open()
        run_context.require_room()
        found.is_scripted = not isinstance(run_context.environment, Unscripted)
        found.turn_limit = run_context.task("train", 0)[0].limits.turn_tokens
        opened = time.monotonic()
        with anyio.move_on_after(seconds):
            await _learn(run_context, found)
            found.rss_bytes = _rss_bytes()
            await _sample(run_context, found, opened + seconds)
        found.rss_bytes = max(found.rss_bytes, _rss_bytes())
    return found


async def _learn(run_context: RunContext, found: Probe) -> None:
    """A demonstration for each process, which warms up, then as many as fit into a few seconds: a step costs
    something whatever its size.
    """
    learner, num = run_context.policies.main.learner, run_context.recipe.compute.ranks
    await learner.begin_phase("sft", 3)
    first = _BASE
    for _ in range(3):
        samples = await _examples(run_context, range(first, first + num), found)
        if not samples:
            return
        began = time.monotonic()
        await learner.sft_step([samples])
        found.learned_s, found.learned_tokens = time.monotonic() - began, _num_tokens(samples)
        found.shown = samples
        first += num
        more = int(num * _LEARN_S / found.learned_s)
        if more <= num:
            return
        num = min(more, _MOST_SHOWN)


async def _examples(run_context: RunContext, tasks: range, found: Probe) -> list[Sample]:
    """Demonstrations; where the environment has none, the policy's own attempts, as often as needed."""
    quota = Quota(ids=list(tasks), group_size=1, max_live=8)
    if not isinstance(run_context.environment, Unscripted):
        plan = run_context.plan("train", 0, cold_start.demonstrator(run_context))
        made = await run_context.attempts(plan, [quota])
        return [sample for attempt in made.attempts for sample in demonstrations(attempt.trajectory)]
    own = found.shown
    if not own:
        await run_context.policies.publish(1)
        began = time.monotonic()
        made = await run_context.attempts(run_context.plan("train", 0), [quota])
        found.attempts, found.sampled_s = list(made.attempts), time.monotonic() - began
        found.are_first = True
        own = [sample for attempt in made.attempts for sample in demonstrations(attempt.trajectory)]
    return (own * len(tasks))[: len(tasks)]


async def _sample(run_context: RunContext, found: Probe, until: float) -> None:
    """A few attempts, then, if there is time, as many as a step begins at once. Last of all, for whoever is
    interrupted here leaves engines in the middle of their work.
    """
    recipe, policies = run_context.recipe, run_context.policies
    await policies.publish(2)
    samplers, began = policies.samplers.get(MAIN, ()), time.monotonic()
    if samplers:  # else a server samples, which is not counted
        policies.samplers[MAIN] = tuple(_Counted(sampler, found, began) for sampler in samplers)
    workers = policies.sampling_workers
    whole = min(recipe.compute.max_num_seqs, -(-recipe.rl.groups * recipe.rl.group_size // len(workers)))
    few = min(_FEW, whole)
    for num in (few, min(whole, _MANY)):
        quotas = [
            Quota(
                ids=[_BASE + rank * num + number for number in range(num if rank in workers else 0)],
                group_size=1,
                max_live=num,
            )
            for rank in range(recipe.compute.ranks)
        ]
        began, made = time.monotonic(), list[Attempt]()

        def keep(attempt: Attempt, began: float = began, made: list[Attempt] = made) -> None:
            made.append(attempt)
            if len(made) >= len(found.attempts):
                found.attempts, found.sampled_s = made, time.monotonic() - began
                found.are_first = False

        await run_context.attempts(
            run_context.plan("train", 0), quotas, temperature=recipe.rl.temperature, on_attempt=keep
        )
        if num == whole or (time.monotonic() - began) * whole / few > until - time.monotonic():
            return


class _Counted:
    """A sampler that says what comes of its turns, which may be all that there is time for."""

    def __init__(self, sampler: Sampler, found: Probe, began: float) -> None:
        self._sampler, self._found, self._began = sampler, found, began

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        return await self._sampler.score(request)

    async def advance(self, exchange: EngineRequest) -> EngineResponse:
        answer = await self._sampler.advance(exchange)
        if answer.done:
            self._found.turn_tokens += sum(len(each.sampled.ids) for each in answer.done if each.sampled)
            self._found.turns_s = time.monotonic() - self._began
        return answer

    async def pull(self, version: int, *, keep_rows: bool) -> float:
        return await self._sampler.pull(version, keep_rows=keep_rows)


def _small(recipe: Recipe) -> Recipe:
    sft = recipe.sft.model_copy(update={"tokenizer_episodes": min(_SURVEY, recipe.sft.tokenizer_episodes)})
    return recipe.model_copy(update={"sft": sft})


def _num_tokens(samples: Sequence[Sample]) -> int:
    return sum(len(sample.ids) for sample in samples)


def _rss_bytes() -> int:
    """Of this process and its children, each at its largest."""
    total = 0
    for pid in _family():
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    return total


def _family() -> list[int]:
    """This process and all beneath it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found = [os.getpid()]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found
