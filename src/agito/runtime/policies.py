"""The policies of a run: renderer, samplers, and for those that learn, learner."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio import to_thread

from agito.concurrency import first_error
from agito.errors import BadRecipe, NotFound
from agito.harness import asked
from agito.harness.recipe_section import AgentSection
from agito.models.config import DecoderConfig, LoraConfig
from agito.models.hub import folder_of
from agito.models.recipe_sections import ModelSection, PolicySection
from agito.protocols import MAIN, AgentSpec, Renderer, StepStats
from agito.recipe import Recipe
from agito.render import Vocabulary, renderer
from agito.render.vocabulary import is_own
from agito.runtime.placement import launcher
from agito.runtime.policy_sources import beside, find, recipe_of, renderer_of
from agito.runtime.pool import PolicyPlan, WorkerPool
from agito.runtime.roles import PolicyHandle, Sampler
from agito.runtime.vllm_policy import ServedPolicy, server_spec
from agito.runtime.wire import ModelSpec
from agito.sampling.vllm import AdapterSlots, VllmSampler, VllmSpec, serving
from agito.sampling.wire import EngineClient, ScoreRequest, Scores
from agito.types import Json, Sample


@dataclass(slots=True)
class Policies:
    """By policy id. `renderers` and `samplers` cover all policies, `learning` those that learn, `main` first.

    Those of `main` exist once the cold start or a checkpoint has made them. All learning policies step and
    publish together, under one version.
    """

    recipe: Recipe
    pool: WorkerPool | None = None
    renderers: dict[str, Renderer] = field(default_factory=dict[str, Renderer])
    # One per worker.
    samplers: dict[str, tuple[Sampler, ...]] = field(default_factory=dict[str, "tuple[Sampler, ...]"])
    learning: dict[str, PolicyHandle | ServedPolicy] = field(
        default_factory=dict[str, "PolicyHandle | ServedPolicy"]
    )
    served: dict[str, VllmSampler] = field(default_factory=dict[str, VllmSampler])  # by a vLLM server
    # what learner and server must agree on; of `main`
    known_text: Callable[[], array[int]] = lambda: array("i", range(64))
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def main(self) -> PolicyHandle | ServedPolicy:
        """The policy being trained."""
        assert MAIN in self.learning, "open comes first"
        return self.learning[MAIN]

    @property
    def learns_alone(self) -> bool:
        """Whether the first worker learns while the others sample."""
        return self.main.learns_alone

    @property
    def sampling_workers(self) -> range:
        """Ranks of the workers that sample attempts."""
        ranks = self.recipe.compute.ranks
        return range(int(self.learns_alone and ranks > 1), ranks)

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Sets the vocabulary of `main`."""
        self.renderers[MAIN] = renderer(self.recipe.env.dialect, vocabulary)

    def use_tokenizer_of(self, checkpoint: Path) -> None:
        """Gives `main` the tokenizer of this folder. Raises `CorruptCheckpoint`, `UnsupportedTemplate`."""
        self.renderers[MAIN] = renderer_of(checkpoint, self.recipe)

    def start_workers(self) -> WorkerPool:
        """Starts workers before they are needed; they take seconds to come up in the background."""
        if self.pool is None:
            sizes = self.recipe.compute
            self.pool = WorkerPool(
                sizes.ranks, start=launcher(sizes.on, sizes.device), silence_s=sizes.silence_s
            )
        return self.pool

    async def open(self, checkpoint: Path | None = None) -> None:
        """Learning policies start as the recipe says, or continue from a `checkpoint` of the run.

        Raises `WorkerDied`, `NotFound`, `CorruptCheckpoint`, and `UnsupportedCheckpoint` for an unimplemented
        network.
        """
        if checkpoint is not None:
            self.use_tokenizer_of(checkpoint)
        elif self.recipe.model.path:
            self.use_tokenizer_of(folder_of(self.recipe.model.path))
        await self._open_main()
        for name, section in self.recipe.policies.items():
            source = find(Path(section.path))
            self.renderers[name] = renderer_of(source, recipe_of(source))
            plan = self._plan(self._model(source, section, learns=section.learns))
            if section.learns:
                self.register(name, await self.start_workers().open(name, plan))
            else:
                self.samplers[name] = await self.start_workers().open_frozen(name, plan)
        self._require_same_tokenizer(self.recipe.distill.teacher)
        if checkpoint is not None:
            await self.load(checkpoint)

    async def open_frozen(self, checkpoint: Path) -> None:
        """Opens all policies without learners: `main` and those that learned with it, from the checkpoint.
        Raises as `open`."""
        self.use_tokenizer_of(checkpoint)
        sources = {MAIN: checkpoint}
        for name, section in self.recipe.policies.items():
            learned = beside(checkpoint, name)
            if section.learns and not learned.is_dir():
                raise NotFound(
                    f"{learned}: the policy {name}, which learned with this checkpoint, is not there"
                )
            sources[name] = learned if section.learns else find(Path(section.path))
            self.renderers[name] = renderer_of(sources[name], recipe_of(sources[name]))
        for name, source in sources.items():
            dtype = (self.recipe.model if name == MAIN else self.recipe.policies[name]).dtype
            model = ModelSpec(source=source, seed=self.recipe.seed, dtype=dtype)
            self.samplers[name] = await self.start_workers().open_frozen(name, self._plan(model))

    async def _open_main(self) -> None:
        is_served = self.recipe.compute.sampler == "vllm"
        plan = replace(self._plan(self._main_model()), is_sampled_here=not is_served)
        handle = await self.start_workers().open(MAIN, plan)
        if not is_served:
            self.register(MAIN, handle)
            return
        server = await self._stack.enter_async_context(serving(self._server_spec()))
        directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="agito-weights-")))
        self.served[MAIN] = VllmSampler(server, MAIN)
        self.learning[MAIN] = ServedPolicy(
            learner=handle.learner,
            sampler=self.served[MAIN],
            directory=directory,
            text=self.known_text(),
            learns_alone=handle.learns_alone,
        )

    def _server_spec(self) -> VllmSpec:
        recipe = self.recipe
        is_adapter = recipe.model.adapter == "lora" and recipe.vllm.publish == "adapter"
        adapters = AdapterSlots(max_rank=recipe.model.lora.rank) if is_adapter else None
        return server_spec(recipe, folder_of(recipe.model.path), adapters)

    def register(self, name: str, handle: PolicyHandle) -> None:
        """Sets a policy's learner and samplers."""
        self.learning[name], self.samplers[name] = handle, handle.samplers

    def agents(self, roles: Sequence[str], temperature: float) -> dict[str, AgentSpec]:
        """By role, as the recipe says. `temperature`: of the learning policies. Raises `BadRecipe` for a
        model that cannot be asked for the recipe's efforts."""
        self._require_efforts()
        return {
            role: self._agent(self.recipe.agents.get(role, AgentSection()), temperature) for role in roles
        }

    def clients(self, worker: int) -> dict[str, EngineClient]:
        """The engines of one worker."""
        context = self.recipe.compute.context
        return {
            name: EngineClient(advance=samplers[worker].advance, context=context)
            for name, samplers in self.samplers.items()
        }

    async def score(self, name: str, request: ScoreRequest) -> tuple[Scores, ...]:
        """Log-probabilities of tokens under this policy; sequences are split over the workers. Raises as
        `Sampler.score`."""
        samplers = self.samplers[name]
        found: dict[int, Scores] = {}

        async def ask(rank: int) -> None:
            share = request.sequences[rank :: len(samplers)]
            answer = await samplers[rank].score(replace(request, sequences=share))
            found.update(zip(range(rank, len(request.sequences), len(samplers)), answer.scores, strict=True))

        try:
            async with anyio.create_task_group() as tasks:
                for rank in range(min(len(samplers), len(request.sequences))):
                    tasks.start_soon(ask, rank)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        return tuple(found[at] for at in sorted(found))

    async def begin_rl(self, total_steps: int) -> None:
        """New optimizers and schedules."""
        for handle in self.learning.values():
            await handle.learner.begin_phase("rl", max(total_steps, 1))

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> dict[str, StepStats]:
        """Each policy learns from its own samples; one without samples stays unchanged."""
        found: dict[str, StepStats] = {}
        for name, handle in self.learning.items():
            if own := [sample for sample in samples if sample.policy == name]:
                found[name] = await handle.learner.step(own, rate=rate)
        return found

    async def push(self, version: int) -> None:
        """Publishes their weights as this version, for samplers to pull."""
        for handle in self.learning.values():
            await handle.push(version)

    async def pull(self, version: int) -> float:
        """Switches samplers that work beside a learner to this version; they keep their rows. Returns the
        seconds during which nothing was sampled, summed.
        """
        return sum([await handle.pull(version) for handle in self.learning.values()])

    async def publish(self, version: int) -> None:
        """Publishes the learners' weights to every sampler, under this version; drops all rows."""
        for handle in self.learning.values():
            await handle.publish(version)

    async def save(self, checkpoint: Path, meta: Mapping[str, Json]) -> None:
        """Commits a checkpoint. Other policies are saved first, beside it; the rename of `main`'s is the
        commit.

        Raises `DiskFull`.
        """
        for name, handle in reversed(self.learning.items()):
            target = checkpoint if name == MAIN else beside(checkpoint, name)
            if name != MAIN and target.exists():  # left by a run that was killed before its commit
                await to_thread.run_sync(shutil.rmtree, target)
            own = self.renderers[name]
            await handle.learner.save(
                target,
                meta=meta if name == MAIN else {},
                tokenizer=own.files(),
                eos_ids=own.stop_ids,
            )

    async def load(self, checkpoint: Path) -> None:
        """Loads weights and optimizers of all learning policies. Raises `CorruptCheckpoint`."""
        for name, handle in self.learning.items():
            await handle.learner.load(checkpoint if name == MAIN else beside(checkpoint, name))

    async def prune(self, checkpoints: Path) -> None:
        """Removes what was saved beside checkpoints of `main` that no longer exist."""
        for name in self.learning:
            folder = beside(checkpoints / "any", name).parent
            for path in folder.iterdir() if name != MAIN and folder.is_dir() else ():
                if not (checkpoints / path.name).is_dir():
                    await to_thread.run_sync(shutil.rmtree, path)

    async def aclose(self) -> None:
        """Stops servers and workers. Call it in the task that opened them. Idempotent."""
        try:
            await self._stack.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                if self.pool is not None:
                    await self.pool.aclose()

    def _agent(self, section: AgentSection, temperature: float) -> AgentSpec:
        if section.policy != MAIN and not self.recipe.policies[section.policy].learns:
            temperature = 1.0 if section.temperature is None else section.temperature
        return AgentSpec(
            renderer=self.renderers[section.policy],
            policy=section.policy,
            temperature=temperature,
            tools=section.tools,
            instructions=section.instructions,
            turns=section.turns,
        )

    def _require_efforts(self) -> None:
        section = self.recipe.effort
        for effort in {*section.settings, section.acts_at} if section.is_on else ():
            for name, own in self.renderers.items():
                try:
                    asked(AgentSpec(renderer=own, thinking=section.thinking(effort)))
                except ValueError as error:
                    raise BadRecipe(f"policy {name}: {error}") from error

    def _require_same_tokenizer(self, teacher: str) -> None:
        tokenizers = [self.renderers[name].files()["tokenizer.json"] for name in (teacher, MAIN) if teacher]
        if teacher and tokenizers[0] != tokenizers[1]:
            raise BadRecipe(f"distill.teacher={teacher}: its tokenizer is not that of {MAIN}")

    def _main_model(self) -> ModelSpec:
        section = self.recipe.model
        if section.path:
            return self._model(folder_of(section.path), section, learns=True)
        shape = section.shape()
        context = self.recipe.compute.context
        return ModelSpec(
            source=DecoderConfig(**shape, vocab_size=self.renderers[MAIN].vocab_size, max_position=context),
            seed=self.recipe.seed,
        )

    def _model(self, source: Path, section: ModelSection | PolicySection, *, learns: bool) -> ModelSpec:
        adapter = section.adapter or ("none" if is_own(source) else "lora")
        lora = LoraConfig(**section.lora.model_dump()) if learns and adapter == "lora" else None
        return ModelSpec(source=source, seed=self.recipe.seed, dtype=section.dtype, lora=lora)

    def _plan(self, model: ModelSpec) -> PolicyPlan:
        sizes = self.recipe.compute
        return PolicyPlan(
            model=model,
            trainer=self.recipe.trainer,
            device=sizes.device,
            context=sizes.context,
            max_num_seqs=sizes.max_num_seqs,
            learns_alone=self.recipe.pipeline.mode == "decoupled",
        )
