"""Where a run works: its environment, its harness, its policies; opened once, closed once, and the same for every stage."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import anyio

from agito.config import meant
from agito.envs import Mixture, load
from agito.errors import BadEnvironment, BadRecipe
from agito.harness import SoloHarness
from agito.harness import load as load_harness
from agito.models.config import DecoderConfig, LoraConfig
from agito.models.hub import folder_of
from agito.monitor import Monitor
from agito.protocols import MAIN, AgentSpec, Environment, Harness, Renderer, ScriptFactory, Session, Validated
from agito.recipe import AgentSection, Recipe
from agito.render import Vocabulary, learn, renderer, texts_of
from agito.rollout import AttemptRunner, Collected, EpisodeDriver, Observed, Plan, collect, reward_range, scripted
from agito.runtime.placement import launcher
from agito.runtime.pool import PolicyPlan, WorkerPool
from agito.runtime.roles import PolicyHandle, Sampler
from agito.runtime.sources import find, recipe_of, renderer_of
from agito.runtime.wire import ModelSpec
from agito.sampling.lockstep import Lockstep
from agito.sampling.wire import EngineClient
from agito.scheduling.curriculum import Part, shared
from agito.scheduling.schedule import Quota
from agito.types import Attempt, AttemptId, Dialect, Fault, Target, Task, Trajectory

_OPENINGS = 8  # looked at in each cell


@dataclass(slots=True)
class RunContext:
    """`renderers` and `samplers` are by policy. Those of `main` are there once the cold start or a checkpoint has made them."""

    recipe: Recipe
    environment: Environment
    harness: Harness = field(default_factory=SoloHarness)
    pool: WorkerPool | None = None
    busy_s: float = 0.0
    renderers: dict[str, Renderer] = field(default_factory=dict[str, Renderer])
    samplers: dict[str, tuple[Sampler, ...]] = field(default_factory=dict[str, "tuple[Sampler, ...]"])  # one a worker
    _policy: PolicyHandle | None = None

    @property
    def policy(self) -> PolicyHandle:
        """The one that learns."""
        assert self._policy is not None, "open_policy comes first"
        return self._policy

    @policy.setter
    def policy(self, handle: PolicyHandle) -> None:
        self._policy, self.samplers[MAIN] = handle, handle.samplers

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of a mixture: how many cells each environment has, and its weight."""
        mix = self.recipe.env.mix
        return tuple(Part(num_cells=len(_cells_of(each.name, each.families, each.levels)), weight=each.weight) for each in mix)

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Families and levels in turn, so that any stretch of tasks is even."""
        if self.recipe.env.mix:
            return tuple(cell for part in self.recipe.env.mix for cell in _cells_of(part.name, part.families, part.levels))
        families = self.recipe.env.families or self.environment.families
        levels = self.recipe.env.levels or self.environment.levels
        return tuple((family, level) for level in levels for family in families)

    def weights(self, named: Mapping[str, float]) -> list[float]:
        """A weight for each cell, 1 where none is named. Raises `BadRecipe` for a name that is no cell's, and when nothing is left."""
        known = [f"{family}-{level}" for family in self.environment.families for level in self.environment.levels]
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise BadRecipe(f"sft.weights: there is no cell {unknown[0]}; there are {', '.join(known)}{meant(unknown[0], known)}")
        weights = [named.get(f"{family}-{level}", 1.0) for family, level in self.cells]
        if not any(weights):
            raise BadRecipe("sft.weights: every cell of this recipe has 0; one must be above")
        return shared(weights, self.parts)

    def task(self, split: str, index: int) -> tuple[Task, Target]:
        task, target = self._whole_task(split, index)
        tokens = min(task.limits.tokens, self.recipe.compute.context)
        return replace(task, limits=replace(task.limits, tokens=tokens)), target

    def _whole_task(self, split: str, index: int) -> tuple[Task, Target]:
        """Whatever the context."""
        family, level = self.cells[index % len(self.cells)]
        task, target = self.environment.task(split=split, index=index, seed=self.recipe.seed, family=family, level=level)
        return task.in_dialect(self.recipe.env.dialect), target

    def plan(self, split: str, base: int, script: Callable[[Task, Target, AttemptId], ScriptFactory] | None = None) -> Plan:
        """Group `base + i` attempts the `i`-th task of the split."""
        return Plan(task=lambda group: self.task(split, group - base), script=script)

    @property
    def renderer(self) -> Renderer:
        """Of the policy that learns."""
        return self.renderers[MAIN]

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """The policy that learns reads and writes with it."""
        self.renderers[MAIN] = renderer(self.recipe.env.dialect, vocabulary)

    def use_tokenizer_of(self, checkpoint: Path) -> None:
        """The policy that learns reads and writes as the one in this folder does. Raises `CorruptCheckpoint`, `UnsupportedTemplate`."""
        self.renderers[MAIN] = renderer_of(checkpoint, self.recipe.env.dialect)

    def new_monitor(self) -> Monitor:
        """For one run of the loop."""
        return Monitor(
            self.recipe.monitor, seed=self.recipe.seed, has_gold=isinstance(self.environment, Validated),
            reward_range=reward_range(self.environment),
        )  # fmt: skip

    def runner(
        self, *, temperature: float, monitor: Monitor | None = None, observed: Observed | None = None, harness: Harness | None = None
    ) -> AttemptRunner:
        """`temperature`: of the policy that learns. `harness`: in the place of the run's own, with the same roles."""
        agents = {role: self._agent(self.recipe.agents.get(role, AgentSection()), temperature) for role in self.harness.roles}
        harness = harness or self.harness
        return AttemptRunner(self.environment, harness, agents, seed=self.recipe.seed, monitor=monitor, observed=observed)

    def _agent(self, section: AgentSection, temperature: float) -> AgentSpec:
        if section.policy != MAIN:
            temperature = 1.0 if section.temperature is None else section.temperature
        return AgentSpec(renderer=self.renderers[section.policy], policy=section.policy, temperature=temperature)

    async def survey(
        self, size: int, scripts: Callable[[Task, Target, int], ScriptFactory], *, on_episode: Callable[[], None] = lambda: None
    ) -> Vocabulary:
        """A vocabulary from what scripted agents say and read in `size` training tasks.

        Raises `BadEnvironment` when not one of their episodes could be played.
        """
        texts: dict[int, list[str]] = {}
        broke: list[str] = []
        limiter, driver = anyio.CapacityLimiter(8), EpisodeDriver(self.environment, noise_seed=self.recipe.seed)

        async def look(index: int) -> None:
            task, target = self.task("train", index)
            attempt = AttemptId(group=index, slot=0)

            async def act(session: Session) -> Trajectory:
                return await scripted(scripts(task, target, index), task, attempt)(session)

            async with limiter:
                trajectory = (await driver.run(task, target, attempt, act, is_graded=False)).trajectory
            if trajectory.fault not in (None, Fault.BUDGET):
                broke.append(f"{trajectory.fault}: {trajectory.detail}")
            texts[index] = texts_of(self.recipe.env.dialect, task, trajectory.events)
            on_episode()

        async with anyio.create_task_group() as tasks:
            for index in range(size):
                tasks.start_soon(look, index)
        if len(broke) == size:
            raise BadEnvironment(f"{self.environment.name}: not one of {size} demonstrations could be played; the first: {broke[0]}")
        numbers = [str(number) for number in range(20)] * size
        return learn([*(text for index in sorted(texts) for text in texts[index]), *numbers], size=self.recipe.model.vocab_size)

    def require_room(self) -> None:
        """Raises `BadRecipe` unless an opening and one turn fit into what an attempt may spend, in every cell."""
        for number, at in itertools.product(range(len(self.cells)), range(_OPENINGS)):
            task, _ = self._whole_task("train", at * len(self.cells) + number)
            self._require_room(task, len(self.renderer.opening(task)))

    def _require_room(self, task: Task, opening: int) -> None:
        turn, own, context, dialect = task.limits.turn_tokens, task.limits.tokens, self.recipe.compute.context, self.recipe.env.dialect
        if opening + turn <= min(own, context):
            return
        key = "natural_limits" if dialect is Dialect.NATURAL else "limits"
        remedy = f"set compute.context={own}" if opening + turn <= own else f"its environment must raise Task.{key}.tokens, now {own}"
        raise BadRecipe(
            f"compute.context={context}: the opening of a task of {task.cell} has {opening} tokens in the {dialect} dialect and a turn up "
            f"to {turn}, but an attempt may spend {min(own, context)}; {remedy}"
        )

    def start_workers(self) -> WorkerPool:
        """Ahead of their use: they take seconds to come up, beside whatever else is done."""
        if self.pool is None:
            sizes = self.recipe.compute
            self.pool = WorkerPool(sizes.ranks, start=launcher(sizes.on, sizes.device), silence_s=sizes.silence_s)
        return self.pool

    async def open_policy(self, checkpoint: Path | None = None) -> None:
        """Every policy of the recipe. The one that learns begins as `[model]` says, or goes on from a `checkpoint`.

        Raises `WorkerDied`, `NotFound`, `CorruptCheckpoint`, and `UnsupportedCheckpoint` for a network that is not implemented.
        """
        if checkpoint is not None:
            self.use_tokenizer_of(checkpoint)
        elif self.recipe.model.path:
            self.use_tokenizer_of(folder_of(self.recipe.model.path))
        self.policy = await self.start_workers().open(MAIN, self._plan(self._model()))
        if checkpoint is not None:
            await self.policy.learner.load(checkpoint)
        await self._open_others()

    async def open_frozen_policy(self, checkpoint: Path) -> None:
        """Every policy of the recipe, that of the checkpoint in the place of the one that learns. Raises as `open_policy`."""
        self.use_tokenizer_of(checkpoint)
        model = ModelSpec(source=checkpoint, seed=self.recipe.seed, dtype=self.recipe.model.dtype)
        self.samplers[MAIN] = await self.start_workers().open_frozen(MAIN, self._plan(model))
        await self._open_others()

    async def _open_others(self) -> None:
        for name, section in self.recipe.policies.items():
            source = find(Path(section.path))
            self.renderers[name] = renderer_of(source, recipe_of(source).env.dialect)
            model = ModelSpec(source=source, seed=self.recipe.seed, dtype=section.dtype)
            self.samplers[name] = await self.start_workers().open_frozen(name, self._plan(model))

    def _model(self) -> ModelSpec:
        section, seed = self.recipe.model, self.recipe.seed
        if section.path:
            lora = LoraConfig(**section.lora.model_dump()) if section.adapter == "lora" else None
            return ModelSpec(source=folder_of(section.path), seed=seed, dtype=section.dtype, lora=lora)
        shape = section.shape()
        context = self.recipe.compute.context
        return ModelSpec(source=DecoderConfig(**shape, vocab_size=self.renderer.vocab_size, max_position=context), seed=seed)

    def _plan(self, model: ModelSpec) -> PolicyPlan:
        sizes = self.recipe.compute
        return PolicyPlan(
            model=model,
            trainer=self.recipe.trainer,
            device=sizes.device,
            context=sizes.context,
            max_num_seqs=sizes.rows,
            learns_alone=self.recipe.pipeline.mode == "decoupled",
        )

    def clients(self, worker: int) -> dict[str, EngineClient]:
        """The engines of one worker, by policy."""
        context = self.recipe.compute.context
        return {name: EngineClient(advance=samplers[worker].advance, context=context) for name, samplers in self.samplers.items()}

    async def attempts(
        self,
        plan: Plan,
        quotas: Sequence[Quota],
        *,
        temperature: float = 1.0,
        on_attempt: Callable[[Attempt], None] = lambda _: None,
        monitor: Monitor | None = None,
        observed: Observed | None = None,
    ) -> Collected:
        """One quota a rank, all at once; without workers when the plan has scripts."""
        runner = self.runner(temperature=temperature, monitor=monitor, observed=observed)
        parts: dict[int, Collected] = {}

        async def run(rank: int, quota: Quota) -> None:
            lockstep = None if plan.script else self._lockstep(rank)
            parts[rank] = await collect(runner, plan, quota, lockstep, on_attempt)
            self.busy_s += lockstep.busy_s if lockstep else 0.0

        async with anyio.create_task_group() as tasks:
            for rank, quota in enumerate(quotas):
                tasks.start_soon(run, rank, quota)
        groups = [group for rank in sorted(parts) for group in parts[rank].groups]
        return Collected(groups=tuple(sorted(groups, key=lambda group: group.id)), retried=sum(part.retried for part in parts.values()))

    def take_busy_s(self) -> float:
        """Seconds for which the engines computed since this was last asked, summed over ranks."""
        busy_s, self.busy_s = self.busy_s, 0.0
        return busy_s

    def _lockstep(self, rank: int) -> Lockstep:
        return Lockstep(self.clients(rank), steps=self.recipe.compute.quantum)


def environment_of(recipe: Recipe) -> Environment:
    """Raises `NotFound` for an unknown one, `ValueError` for a mixture of one environment with itself."""
    mix = recipe.env.mix
    return Mixture([load(each.name) for each in mix]) if mix else load(recipe.env.name)


@lru_cache(maxsize=64)
def _cells_of(name: str, families: tuple[str, ...], levels: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    environment = load(name)
    families, levels = families or environment.families, levels or environment.levels
    return tuple((f"{environment.name}.{family}", level) for level in levels for family in families)


@asynccontextmanager
async def open_run_context(recipe: Recipe) -> AsyncGenerator[RunContext]:
    run_context = RunContext(recipe, environment_of(recipe), load_harness(**recipe.harness.model_dump()))
    try:
        yield run_context
    finally:
        with anyio.CancelScope(shield=True):
            if run_context.pool is not None:
                await run_context.pool.aclose()
            await run_context.environment.aclose()
