"""One run, from an empty directory or from its last checkpoint to its report.

Cold start, evaluation, the loop, evaluation again: each stage's results are on disk before the next begins. A
run that was killed goes on from the last committed checkpoint and computes what it would have computed, bit
for bit. So does, by itself, one whose engine or trainer has died or fallen silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.lowlevel

from agito import config
from agito.concurrency import first_error
from agito.envs import isolation_of
from agito.errors import BadRecipe, EnvironmentPaused, WorkerDied, WorkerFailed
from agito.evaluation import policies as evaluation
from agito.learning.credit import RunningMeans
from agito.models.compiler import FORWARD, is_built
from agito.monitor import Monitor
from agito.protocols import StepStats
from agito.recipe import Recipe
from agito.record import (
    Ledger,
    Metrics,
    Rate,
    RunDir,
    Summary,
    TokenStats,
    rate,
    read_trajectories,
    write_trajectories,
)
from agito.record.commits import latest, load_meta, newest, prune
from agito.record.events import (
    CheckpointSaved,
    EventLog,
    Level,
    Notice,
    OnEvent,
    Recovered,
    RunResumed,
    RunStarted,
    StepFinished,
    SummaryWritten,
    ignore,
    logged,
)
from agito.record.machine import facts
from agito.record.tracking import tracked
from agito.record.usage import UsageCounters
from agito.rollout import DeadlineLog
from agito.runtime.run_context import RunContext, open_run_context
from agito.scheduling.curriculum import Curriculum
from agito.training import async_loop, cold_start, loop
from agito.training.admission import Admission, admit, admit_again
from agito.training.run_summary import Outcome
from agito.types import Attempt, AttemptId, Json, Sample
from agito.view import write_report

_MAX_DEATHS = 3  # of workers, without a new checkpoint, until the run gives up


async def train(
    recipe: Recipe,
    path: Path,
    on_event: OnEvent = ignore,
    *,
    admission: Admission | None = None,
    notes: Sequence[str] = (),
) -> Summary:
    """A new run in `path`. Raises `AgitoError` when there is one already, and whatever keeps a run from
    ending.

    Without an `admission` the environment's is asked for first. Raises `NotAdmitted`. `notes` say how the
    recipe was fitted to this machine.
    """
    admission = admission or await admit(*recipe.env.names)
    about = {**facts(), "seed": recipe.seed, "admission": admission.to_json()}
    began = RunStarted(name=recipe.name, env=recipe.env.title, seed=recipe.seed, notes=tuple(notes))
    with (
        RunDir.create(path, config.dump(recipe), about) as run,
        logged(run.events, on_event, began) as events,
    ):
        async with tracked(recipe.track.to, path, events):
            return await _run_until_done(recipe, run, events)


async def resume(path: Path, on_event: OnEvent = ignore) -> Summary:
    """Goes on with the run in `path`. Raises `NotFound`; `CorruptCheckpoint` when its last checkpoint is
    damaged; `NotAdmitted` when its environment has been edited since.
    """
    recipe = config.read(Recipe, path / "config.toml")
    with RunDir.open(path) as run:
        if run.meta.get("finished"):
            raise BadRecipe(f"{path}: this run is finished; its report is {run.report}")
        await admit_again(path, recipe.env.names, run.meta.get("admission"))
        checkpoint = newest(run.checkpoints)
        resumed = RunResumed(checkpoint=checkpoint.name if checkpoint else "", step=_step_of(checkpoint))
        with logged(run.events, on_event, resumed) as events:
            async with tracked(recipe.track.to, path, events):
                return await _run_until_done(recipe, run, events)


async def _run_until_done(recipe: Recipe, run: RunDir, events: EventLog) -> Summary:
    """Runs to the end. After a worker has died it restarts from the newest checkpoint, and gives up after
    `_MAX_DEATHS` deaths without a new one.
    """
    stuck, earlier_cpu_s, checkpoint = 0, None, newest(run.checkpoints)
    while True:
        job = TrainingRun(recipe, run, events, earlier_cpu_s)
        try:
            return await job.run_through(checkpoint)
        except (WorkerDied, BaseExceptionGroup) as error:
            cause = first_error(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]
            before, checkpoint = checkpoint, newest(run.checkpoints)
            stuck = stuck + 1 if checkpoint == before else 1
            if not isinstance(cause, WorkerDied) or isinstance(cause, WorkerFailed) or stuck == _MAX_DEATHS:
                raise cause from None
            await anyio.lowlevel.checkpoint()  # an interruption looks like a worker's death
            earlier_cpu_s = job.usage.earlier_cpu_s
            events.emit(Recovered(why=str(cause), step=_step_of(checkpoint)))


def _step_of(checkpoint: Path | None) -> int:
    """The RL step that comes next."""
    return int(str(load_meta(checkpoint)["step"])) if checkpoint else 0


class TrainingRun:
    """The stages of one run and what they hand to one another."""

    def __init__(
        self, recipe: Recipe, run: RunDir, events: EventLog, earlier_cpu_s: float | None = None
    ) -> None:
        """`earlier_cpu_s`: CPU seconds of the run's earlier processes; overrides the checkpoint's count."""
        self._recipe, self._run, self._events = recipe, run, events
        self.usage, self._earlier_cpu_s = UsageCounters(), earlier_cpu_s
        self._metrics: Metrics
        self._ledger: Ledger
        self._run_context: RunContext
        self._tier = "unknown"
        self._curriculum: Curriculum
        self._monitor: Monitor
        self._means = RunningMeans()
        self._observed = DeadlineLog(run.path / "deadlines.jsonl")
        self._watched: Json = None  # the monitor's state as of the last step that was learned from
        self._position = async_loop.Position()  # in asynchronous training

    async def run_through(self, checkpoint: Path | None) -> Summary:
        """Raises `EnvironmentPaused` once everything that the run has come to is written."""
        found, paused = Outcome(), None
        async with AsyncExitStack() as stack:
            self._run_context = await stack.enter_async_context(open_run_context(self._recipe))
            self._curriculum = Curriculum(
                len(self._run_context.cells),
                parts=self._run_context.parts,
                solve_rate=self._recipe.rl.solve_rate,
            )
            self._monitor = self._run_context.new_monitor()
            self._run_context.policies.start_workers()
            start = self._discard_uncommitted(checkpoint)
            stack.callback(lambda: (self._metrics.close(), self._ledger.close()))
            await (self._restore(checkpoint) if checkpoint else self._cold_start())
            try:
                await self._stages(start, found)
            except EnvironmentPaused as error:
                paused = error
            self._tier = isolation_of(self._run_context.environment)
        summary = self._sum_up(found, str(paused or ""))
        if paused is not None:
            raise paused
        return summary

    async def _stages(self, start: int, found: Outcome) -> None:
        recipe = self._recipe.eval
        found.before = await self._evaluate("before", "heldout", recipe.tasks)
        with self.usage.phase("rl"):
            self._events.begin("rl", self._recipe.rl.steps)
            await self._reinforce(start)
        await self._save("final", self._recipe.rl.steps)
        found.after = await self._evaluate("after", "heldout", recipe.tasks)
        found.structural = await self._evaluate("structural", "structural", recipe.structural_tasks)
        found.baselines = await self._baselines()

    def _discard_uncommitted(self, checkpoint: Path | None) -> int:
        """Forgets whatever is not committed; returns the RL step to continue with."""
        if checkpoint is None:
            self._ledger = self._run.rollback("demo", -1, {})
            self._metrics = self._run.open_metrics()
            return 0
        meta = load_meta(checkpoint)
        step, tally, consumed = meta["step"], meta["tally"], meta["consumed"]
        assert isinstance(step, int) and isinstance(tally, dict) and isinstance(consumed, dict)
        self.usage = UsageCounters.from_json(tally)
        if self._earlier_cpu_s is not None:
            self.usage.earlier_cpu_s = self._earlier_cpu_s
        self._curriculum.restore(meta.get("curriculum"))
        self._position = async_loop.Position.from_json(meta.get("position"))
        self._monitor.restore(meta.get("monitor"))
        self._means.restore(meta.get("running_means"))
        self._run_context.prices.restore(meta.get("prices"))
        self._watched = self._monitor.to_json()
        attempts = {
            int(key): [AttemptId.parse(str(each)) for each in listed]
            for key, listed in consumed.items()
            if isinstance(listed, list)
        }
        self._ledger = self._run.rollback(*(("rl", step - 1) if step else ("sft", 1 << 30)), attempts)
        self._metrics = self._run.open_metrics()
        return step

    async def _restore(self, checkpoint: Path) -> None:
        await self._run_context.policies.open(checkpoint)

    async def _cold_start(self) -> None:
        run_context = self._run_context
        with self.usage.phase("tokenizer"):
            if not self._recipe.model.path:  # else its tokenizer is there
                self._events.begin("tokenizer", self._recipe.sft.tokenizer_episodes)
                await cold_start.train_tokenizer(run_context, self._events.advance)
            await run_context.policies.open()
            run_context.require_room()

        def on_step(step: int, stats: StepStats) -> None:
            self._metrics.write(step, "sft", stats.values)
            self._events.emit(StepFinished(phase="sft", step=step, metrics=stats.values))

        with self.usage.phase("sft"):
            demos = await cold_start.run_sft(
                run_context,
                lambda steps: self._events.begin("sft", steps),
                on_step,
                lambda text: self._events.emit(Notice(level=Level.NOTE, text=text)),
            )
            self._write("demo", 0, demos)
            self._monitor.add_scripts(demos)
            self.usage.add_causes(demos)
            self._watched = self._monitor.to_json()
            await self._save("step-0", 0)

    async def _reinforce(self, start: int) -> None:
        run_context, curriculum, monitor, new_version = (
            self._run_context,
            self._curriculum,
            self._monitor,
            self._ledger.next_version,
        )
        if self._recipe.pipeline.mode == "on_policy":
            await loop.train(
                run_context,
                curriculum,
                start=start,
                on_step=self._after_step,
                new_version=new_version,
                monitor=monitor,
                means=self._means,
                observed=self._observed,
                roll_back=self._roll_back_weights,
            )
            return

        async def on_step(step: loop.Step, position: async_loop.Position) -> None:
            self._position = self._position if step.paused else position
            await self._after_step(step)

        with self._run.schedule.open("a", encoding="utf-8") as schedule:
            await async_loop.train(
                run_context,
                curriculum,
                start=start,
                position=self._position,
                on_step=on_step,
                new_version=new_version,
                write_schedule=schedule.write,
                monitor=monitor,
                means=self._means,
                observed=self._observed,
                roll_back=self._roll_back_weights,
            )

    async def _roll_back_weights(self, step: int) -> int:
        """Loads the last checkpoint from before `step` into the learners; curriculum and ledger stay. Returns
        its step.
        """
        found = latest(self._run.checkpoints, before=step + 1)
        assert found is not None, "step-0 is always kept"
        policies = self._run_context.policies
        await policies.load(found)
        self._monitor.rolled_back_to = back = int(found.name.removeprefix("step-"))
        if back == 0:  # its optimizer is imitation's
            await policies.begin_rl(self._recipe.rl.steps)
        return back

    async def _after_step(self, step: loop.Step) -> None:
        if step.paused:  # the step is kept for reading; whoever resumes takes it again
            await self._save(f"step-{step.index}", step.index)
        else:
            self._watched = self._monitor.to_json()
        attempts = [attempt for group in step.groups for attempt in group.all_attempts]
        self.usage.add(attempts)
        for attempt in attempts:
            self._ledger.grade(attempt.trajectory.attempt, attempt.verdict.status, step=step.index)
        self._ledger.consume(step.index, sorted({sample.attempt for sample in step.trained}))
        self._write("rl", step.index, attempts, step.trained)
        self._metrics.write(step.index, "rl", step.metrics)
        self._events.emit(StepFinished(phase="rl", step=step.index, metrics=step.metrics))
        for note in step.notes:
            self._events.emit(Notice(level=Level.WARNING, text=note))
        if self._monitor.alarm_step == step.index:
            self._events.emit(Notice(level=Level.ALARM, text=self._monitor.why))
        # After a rollback, save at once: a resume must not load the revoked weights.
        was_rolled_back = "monitor/rolled_back_to_step" in step.metrics
        is_due = was_rolled_back or (step.index + 1) % self._recipe.rl.checkpoint_every == 0
        if not step.paused and is_due and step.index + 1 < self._recipe.rl.steps:
            await self._save(f"step-{step.index + 1}", step.index + 1)

    async def _save(self, name: str, step: int) -> None:
        """Commits a checkpoint; the ledger follows its rename."""
        consumed: dict[str, Json] = {
            str(at): [str(attempt) for attempt in attempts]
            for at, attempts in self._ledger.uncommitted().items()
        }
        meta: dict[str, Json] = {
            "step": step,
            "consumed": consumed,
            "tally": self.usage.to_json(),
            "curriculum": self._curriculum.to_json(),
            "position": self._position.to_json(),
            "monitor": self._watched,
            "running_means": self._means.to_json(),
            **({"prices": self._run_context.prices.to_json()} if self._run_context.prices.are_on else {}),
        }
        target = self._run.checkpoints / name
        if target.exists():  # saved before the resume
            return
        policies = self._run_context.policies
        await policies.save(target, meta)
        self._ledger.commit(step - 1)
        self._events.emit(CheckpointSaved(name=name, step=step))
        monitor, revoked = self._monitor, range(0)
        if monitor.rolled_back_to is not None and monitor.alarm_step is not None:
            revoked = range(monitor.rolled_back_to + 1, monitor.alarm_step + 1)
        # Keep step-0, for comparison, and the checkpoint that an alarm would roll back to.
        prune(
            self._run.checkpoints,
            keep=self._recipe.rl.keep_checkpoints,
            spared=frozenset({"step-0"}),
            reach=monitor.rise_step,
            revoked=revoked,
        )
        await policies.prune(self._run.checkpoints)

    async def _evaluate(self, phase: str, split: str, num_tasks: int) -> Sequence[Attempt]:
        """The stored attempts, if this phase was finished before a resume."""
        done = self._run.trajectories / f"{phase}-00000.parquet"
        if done.exists():
            return [recorded.attempt for recorded in read_trajectories(done)]
        if not num_tasks:
            return []
        with self.usage.phase(phase):
            self._events.begin(phase, num_tasks)
            await self._run_context.policies.publish(self._ledger.next_version())
            attempts = await evaluation.policy(
                self._run_context,
                split,
                num_tasks,
                temperature=self._recipe.eval.temperature,
                monitor=self._monitor,
                observed=self._observed.part(phase),
                on_attempt=lambda attempt: self._events.advance(evaluation.metrics(attempt)),
            )
            self.usage.add(attempts)
            self._write(phase, 0, attempts)
            found = rate(attempts)
            self._metrics.write(
                0,
                phase,
                {
                    "success/num": found.num,
                    "success/successes": found.successes,
                    "success/all_num": len(attempts),
                },
            )
            self._events.emit(evaluation.finished(phase, "policy", attempts))
        return attempts

    async def _baselines(self) -> dict[str, Rate]:
        if not self._recipe.eval.baseline_tasks:
            return {}
        with self.usage.phase("baselines"):
            self._events.begin("baselines", 0)
            found = await evaluation.scripts(
                self._run_context,
                "heldout",
                self._recipe.eval.baseline_tasks,
                demonstrator_skill=self._recipe.sft.skill,
            )
            for name, attempts in found.items():
                self._events.emit(evaluation.finished("baselines", name, attempts))
        return {name: rate(attempts) for name, attempts in found.items()}

    def _write(
        self, phase: str, step: int, attempts: Sequence[Attempt], trained: Sequence[Sample] = ()
    ) -> None:
        renderers = self._run_context.policies.renderers
        write_trajectories(
            self._run.trajectories,
            phase,
            step,
            attempts,
            dialect=self._recipe.env.dialect,
            piece=lambda policy, token: renderers[policy].text([token]),
            stats=[
                TokenStats(attempt=sample.attempt, segment=sample.segment, advantages=sample.advantages)
                for sample in trained
            ],
        )

    def _sum_up(self, found: Outcome, paused: str) -> Summary:
        """After everything is closed, so that every process's time is counted."""
        summary = found.summary(
            self._recipe, self._run.meta, self.usage, self._monitor, tier=self._tier, paused=paused
        )
        summary.write(self._run.summary)
        self._events.emit(SummaryWritten(paused=paused))
        self._run.note(isolation_tier=self._tier, can_compile=is_built(FORWARD))
        if not paused:
            self._run.finish()
        write_report(self._run.path)
        return summary
