"""The parts of a run: environment, harness and policies, opened once, closed once, and shared by all
stages."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import anyio

from agito.config import meant
from agito.envs import Mixture, load
from agito.errors import BadEnvironment, BadRecipe
from agito.harness import SoloHarness, TeamHarness
from agito.harness import load as load_harness
from agito.harness.recipe_section import AgentSection
from agito.harness.team import first_task
from agito.learning.prices import Prices
from agito.monitor import Monitor
from agito.protocols import (
    MAIN,
    AgentSpec,
    Engine,
    Environment,
    ForkingSession,
    Harness,
    Renderer,
    ScriptFactory,
    Session,
    Validated,
)
from agito.recipe import Recipe
from agito.render import Vocabulary, learn, texts_of
from agito.rollout import (
    AttemptRunner,
    Collected,
    EpisodeDriver,
    Observed,
    Plan,
    Runs,
    collect,
    reward_range,
    scripted,
)
from agito.runtime.policies import Policies
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.lockstep import Lockstep
from agito.scheduling.curriculum import Part, shared
from agito.scheduling.sync_scheduler import Quota
from agito.types import Attempt, AttemptId, Dialect, Effort, Fault, Target, Task, Thinking, Trajectory
from agito.worlds.sandbox import Pool

_OPENINGS = 8  # tasks examined in each cell
_KNOWN_TOKENS = 160  # of the text by which a server's log-probabilities are compared


@dataclass(slots=True)
class RunContext:
    recipe: Recipe
    environment: Environment
    harness: Harness = field(default_factory=SoloHarness)
    busy_s: float = 0.0
    policies: Policies = field(init=False)
    prices: Prices = field(init=False)

    def __post_init__(self) -> None:
        lowest, _ = reward_range(self.environment)
        self.prices = Prices(self.recipe.effort, critical=self.recipe.rl.critical_price, lowest=lowest)
        self.policies = Policies(self.recipe, known_text=self._known_text)

    def _known_text(self) -> array[int]:
        opening = self.policies.renderers[MAIN].opening(self.task("train", 0)[0])
        return opening[:_KNOWN_TOKENS]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of a mixture: number of cells and weight of each environment."""
        section = self.recipe.env
        return tuple(
            Part(num_cells=len(_cells_of(name, each.families, each.levels)), weight=each.weight)
            for name, each in zip(section.names, section.mix, strict=False)
        )

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Families and levels in turn, so that any stretch of tasks is balanced."""
        section = self.recipe.env
        if section.mix:
            return tuple(
                cell
                for name, part in zip(section.names, section.mix, strict=True)
                for cell in _cells_of(name, part.families, part.levels)
            )
        families = section.families or self.environment.families
        levels = section.levels or self.environment.levels
        return tuple((family, level) for level in levels for family in families)

    def weights(self, named: Mapping[str, float]) -> list[float]:
        """A weight for each cell, 1 by default. Raises `BadRecipe` for an unknown cell, and when all weights
        are 0."""
        known = [
            f"{family}-{level}" for family in self.environment.families for level in self.environment.levels
        ]
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise BadRecipe(
                f"sft.weights: there is no cell {unknown[0]}; there are "
                f"{', '.join(known)}{meant(unknown[0], known)}"
            )
        weights = [named.get(f"{family}-{level}", 1.0) for family, level in self.cells]
        if not any(weights):
            raise BadRecipe("sft.weights: every cell of this recipe has 0; one must be above")
        return shared(weights, self.parts)

    def task(self, split: str, index: int) -> tuple[Task, Target]:
        task, target = self._whole_task(split, index)
        tokens = min(task.limits.tokens, self.recipe.compute.context)
        return replace(task, limits=replace(task.limits, tokens=tokens)), target

    def _whole_task(self, split: str, index: int) -> tuple[Task, Target]:
        """The task with all of its limits, whatever `compute.context` is."""
        family, level = self.cells[index % len(self.cells)]
        task, target = self.environment.task(
            split=split, index=index, seed=self.recipe.seed, family=family, level=level
        )
        return task.in_dialect(self.recipe.env.dialect), target

    def plan(
        self,
        split: str,
        base: int,
        script: Callable[[Task, Target, AttemptId], ScriptFactory] | None = None,
        *,
        effort: Effort | None = None,
    ) -> Plan:
        """Assigns the `i`-th task of the split to group `base + i`. Without an `effort`, training tasks take
        the recipe's in turn, cell by cell; scripts at others are asked for none."""
        section, num_cells = self.recipe.effort, len(self.cells)

        learns = effort is None and script is None and split == "train"

        def thinking(attempt: AttemptId) -> Thinking | None:
            if effort is not None:
                return section.thinking(effort)
            number, cell = divmod(attempt.group - base, num_cells)
            asked = section.in_turn(number, cell=cell) if split == "train" else None
            return section.in_slot(asked, attempt.slot) if learns else asked

        return Plan(
            task=lambda group: self.task(split, group - base),
            script=script,
            thinking=thinking,
            cost=self.prices.in_group if learns else lambda _: 0.0,
        )

    def new_monitor(self) -> Monitor:
        """For one run of the loop."""
        return Monitor(
            self.recipe.monitor,
            seed=self.recipe.seed,
            has_gold=isinstance(self.environment, Validated),
            reward_range=reward_range(self.environment),
        )

    def runner(
        self,
        *,
        temperature: float,
        monitor: Monitor | None = None,
        observed: Observed | None = None,
        harness: Harness | None = None,
    ) -> AttemptRunner:
        """`temperature`: of the learning policies. `harness`: replaces the run's own; has the same roles."""
        agents = self.policies.agents(self.harness.roles, temperature)
        harness = harness or self.harness
        return AttemptRunner(
            self.environment, harness, agents, seed=self.recipe.seed, monitor=monitor, observed=observed
        )

    async def train_tokenizer(
        self,
        size: int,
        scripts: Callable[[Task, Target, int], ScriptFactory],
        *,
        on_episode: Callable[[], None] = lambda: None,
    ) -> Vocabulary:
        """Learns a vocabulary from what scripted agents say and read in `size` training tasks.

        Raises `BadEnvironment` when none of their episodes could be played.
        """
        texts: dict[int, list[str]] = {}
        broke: list[str] = []
        limiter, driver = (
            anyio.CapacityLimiter(8),
            EpisodeDriver(self.environment, noise_seed=self.recipe.seed),
        )

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
            raise BadEnvironment(
                f"{self.environment.name}: not one of {size} demonstrations could be played; the first: "
                f"{broke[0]}"
            )
        common = [str(number) for number in range(20)] * size
        if isinstance(self.harness, TeamHarness):
            common += list(self.harness.words) * size
        return learn(
            [*(text for index in sorted(texts) for text in texts[index]), *common],
            size=self.recipe.model.vocab_size,
            asks_effort=self.recipe.effort.is_on,
        )

    def require_room(self) -> None:
        """Raises `BadRecipe` unless, in every cell, the prompt and one turn fit into an attempt's limits, and
        for a role with a tool that a task does not have."""
        for number, at in itertools.product(range(len(self.cells)), range(_OPENINGS)):
            task, _ = self._whole_task("train", at * len(self.cells) + number)
            names = [tool.name for tool in task.tools]
            for role, section in self.recipe.agents.items():
                for tool in set(section.tools or ()) - set(names):
                    raise BadRecipe(
                        f"agents.{role}.tools: {task.cell} has no tool {tool}; it has {', '.join(names)}"
                        f"{meant(tool, names)}"
                    )
            for renderer in self.policies.renderers.values():
                self._require_room(task, len(renderer.opening(self._as_told(task, renderer))))

    async def require_forks(self) -> None:
        """Raises `BadRecipe` where agents shall work on forks of worlds that cannot be merged."""
        if not isinstance(self.harness, TeamHarness) or not self.harness.rules.forked:
            return
        for number in range(len(self.cells)):
            task, target = self._whole_task("train", number)
            control = await self.environment.open(task, target, AttemptId(group=0, slot=0), noise_seed=0)
            can_fork = isinstance(control.session, ForkingSession) and control.session.can_fork
            await control.close()
            if not can_fork:
                raise BadRecipe(
                    f"agents.{self.harness.rules.forked[0]}.world='fork': a world of {task.env} cannot be "
                    "merged; only one that is a single file workspace can, such as those of shell and code"
                )

    def _as_told(self, task: Task, renderer: Renderer) -> Task:
        """What the agent that begins is told, which in a team is more than the task."""
        if not isinstance(self.harness, TeamHarness):
            return task
        section = self.recipe.agents.get(self.harness.roles[0], AgentSection())
        spec = AgentSpec(renderer=renderer, tools=section.tools, instructions=section.instructions)
        return first_task(task, spec, self.harness.rules)

    def _require_room(self, task: Task, opening: int) -> None:
        turn, own, context, dialect = (
            task.limits.turn_tokens,
            task.limits.tokens,
            self.recipe.compute.context,
            self.recipe.env.dialect,
        )
        if opening + turn <= min(own, context):
            return
        key = "natural_limits" if dialect is Dialect.NATURAL else "limits"
        remedy = (
            f"set compute.context={own}"
            if opening + turn <= own
            else f"its environment must raise Task.{key}.tokens, now {own}"
        )
        raise BadRecipe(
            f"compute.context={context}: the opening of a task of {task.cell} has {opening} tokens in the "
            f"{dialect} dialect and a turn up "
            f"to {turn}, but an attempt may spend {min(own, context)}; {remedy}"
        )

    async def attempts(
        self,
        plan: Plan,
        quotas: Sequence[Quota],
        *,
        temperature: float = 1.0,
        on_attempt: Callable[[Attempt], None] = lambda _: None,
        monitor: Monitor | None = None,
        observed: Observed | None = None,
        runner: Runs | None = None,
    ) -> Collected:
        """Runs one quota per rank, concurrently; uses no workers when the plan has scripts. `runner`: instead
        of the run's own.
        """
        runner = runner or self.runner(temperature=temperature, monitor=monitor, observed=observed)
        parts: dict[int, Collected] = {}

        async def run(rank: int, quota: Quota) -> None:
            if plan.script:
                parts[rank] = await collect(runner, plan, quota, None, on_attempt)
            elif self.policies.served:
                async with self._free_engines(rank) as engines:
                    parts[rank] = await collect(runner, plan, quota, engines, on_attempt)
            else:
                lockstep = Lockstep(self.policies.clients(rank), steps=self.recipe.compute.decode_steps)
                parts[rank] = await collect(runner, plan, quota, lockstep, on_attempt)
                self.busy_s += lockstep.busy_s

        async with anyio.create_task_group() as tasks:
            for rank, quota in enumerate(quotas):
                if quota.ids:
                    tasks.start_soon(run, rank, quota)
        groups = [group for rank in sorted(parts) for group in parts[rank].groups]
        return Collected(
            groups=tuple(sorted(groups, key=lambda group: group.id)),
            retried=sum(part.retried for part in parts.values()),
        )

    def take_busy_s(self) -> float:
        """Seconds that engines computed since the last call, summed over ranks."""
        busy_s, self.busy_s = self.busy_s, 0.0
        return busy_s

    @asynccontextmanager
    async def _free_engines(self, rank: int) -> AsyncGenerator[dict[str, Engine]]:
        """Where a server samples one of the policies, nothing is in lockstep."""
        steps = self.recipe.compute.decode_steps
        free = {
            name: ContinuousBatching(client, steps=steps)
            for name, client in self.policies.clients(rank).items()
        }
        async with anyio.create_task_group() as tasks:
            for engine in free.values():
                tasks.start_soon(engine.run)
            yield {**free, **self.policies.served}
            for engine in free.values():
                engine.stop()
                self.busy_s += engine.busy_s


def harness_of(recipe: Recipe) -> Harness:
    """Raises `NotFound`, `BadHarness`."""
    forked = [role for role, agent in recipe.agents.items() if agent.world == "fork"]
    return load_harness(**recipe.harness.model_dump(), open_pool=Pool.open, forked=forked)


def environment_of(recipe: Recipe) -> Environment:
    """Raises `NotFound` for an unknown one, `ValueError` for a mixture of one environment with itself."""
    environments = [load(name) for name in recipe.env.names]
    return Mixture(environments) if recipe.env.mix else environments[0]


@lru_cache(maxsize=64)
def _cells_of(name: str, families: tuple[str, ...], levels: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    environment = load(name)
    families, levels = families or environment.families, levels or environment.levels
    return tuple((f"{environment.name}.{family}", level) for level in levels for family in families)


@asynccontextmanager
async def open_run_context(recipe: Recipe) -> AsyncGenerator[RunContext]:
    run_context = RunContext(recipe, environment_of(recipe), harness_of(recipe))
    try:
        await run_context.require_forks()
        yield run_context
    finally:
        try:
            await run_context.policies.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await run_context.environment.aclose()
