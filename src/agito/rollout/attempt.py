"""One attempt of a policy or a script, from an open world to a verdict that training can go by."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agito.errors import AgitoError
from agito.grading.leaks import leak_flags, leaks
from agito.harness import ScriptedAgent, SoloHarness, TeamHarness, asked
from agito.harness.team import LEAKED, Heard, ScriptedTeam, context_leaks
from agito.monitor import Monitor, is_report, located, proof_of
from agito.protocols import (
    Agent,
    AgentSpec,
    Answered,
    Engine,
    Environment,
    Harness,
    ScriptFactory,
    Session,
    TeamScript,
    Validated,
)
from agito.rollout.deadline_log import Observed
from agito.rollout.episode import Act, Deadlines, EpisodeDriver, Finished, reward_range
from agito.rollout.guarded_session import what_broke
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    EpisodeArtifacts,
    Fault,
    Flag,
    Status,
    Target,
    Task,
    TerminationReason,
    Thinking,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How group ids become tasks, and, for scripted attempts, which script acts."""

    task: Callable[[int], tuple[Task, Target]]
    script: Callable[[Task, Target, AttemptId], ScriptFactory] | None = None
    thinking: Callable[[AttemptId], Thinking | None] = lambda attempt: None  # None: as the agents' own
    cost: Callable[[Attempt], float] = lambda attempt: 0.0  # in reward


class AttemptRunner:
    """Runs attempts of one environment through one harness; `seed` keys everything that is drawn.

    `agents` has one for each of the harness's roles. The first speaks the dialect that tasks are put in.

    Proof of cheating always costs; with a monitor some attempts are graded again, and some by the
    environment's validator.
    """

    def __init__(
        self,
        environment: Environment,
        harness: Harness,
        agents: Mapping[str, AgentSpec],
        *,
        seed: int,
        monitor: Monitor | None = None,
        deadlines: Deadlines | None = None,
        observed: Observed | None = None,
    ) -> None:
        missing = [role for role in harness.roles if role not in agents]
        if missing:
            raise ValueError(f"the harness asks for an agent in the role {missing[0]!r}, and there is none")
        self._environment, self._harness, self._monitor = environment, harness, monitor
        self._agents, self._first = {role: agents[role] for role in harness.roles}, agents[harness.roles[0]]
        self._seed = seed
        self._driver = EpisodeDriver(environment, noise_seed=seed, deadlines=deadlines, observed=observed)

    async def run(
        self,
        plan: Plan,
        attempt: AttemptId,
        engines: Mapping[str, Engine] | None,
        *,
        observed: Observed | None = None,
    ) -> Attempt:
        """`engines` by policy; None when the plan has scripts. A retried slot draws the same stream again.
        `observed`: of this attempt, instead of what is known of all.
        """
        try:
            task, target = plan.task(attempt.group)
        except AgitoError:
            raise
        except Exception as error:  # the boundary, as for the rest of an environment
            return _without_task(self._environment.name, attempt, what_broke("task", error))
        task, thinking = task.in_dialect(self._first.renderer.dialect), plan.thinking(attempt)
        specs = {
            role: spec if thinking is None else replace(spec, thinking=thinking)
            for role, spec in self._agents.items()
        }

        async def act(session: Session) -> Trajectory:
            stream = zlib.crc32(f"{self._seed}/{attempt.group}/{attempt.slot}".encode())
            if plan.script is not None:
                return _fault_if_never_sampled(
                    await self._scripted(
                        plan.script(task, target, attempt), session, task, attempt, stream, thinking
                    )
                )
            assert engines is not None, "whoever samples needs engines"
            agents = {role: Agent(spec=spec, engine=engines[spec.policy]) for role, spec in specs.items()}
            return _fault_if_never_sampled(await self._acted(task, session, agents, attempt, stream))

        found = await self.drive(task, target, attempt, act, observed=observed)
        return replace(found, cost=plan.cost(found)) if found.is_scored else found

    async def _scripted(
        self,
        script: ScriptFactory,
        session: Session,
        task: Task,
        attempt: AttemptId,
        seed: int,
        thinking: Thinking | None,
    ) -> Trajectory:
        """A script plays one agent, with every tool; where the harness asks for several, it acts alone unless
        it is a team's.
        """
        if isinstance(script, TeamScript) and isinstance(self._harness, TeamHarness):
            agents = {
                role: Agent(spec=spec, engine=ScriptedTeam(script, spec.renderer))
                for role, spec in self._agents.items()
            }
            return await self._acted(task, session, agents, attempt, seed)
        spec = replace(self._first, tools=None, thinking=thinking or self._first.thinking)
        agent = ScriptedAgent(script, session, asked(spec))
        harness = self._harness if len(self._agents) == 1 else SoloHarness()
        return await harness.run(
            task, agent, {harness.roles[0]: Agent(spec=spec, engine=agent)}, attempt, seed=seed
        )

    async def _acted(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, seed: int
    ) -> Trajectory:
        """What the harness makes of it. A team that did not keep its contexts apart has failed."""
        if not isinstance(self._harness, TeamHarness):
            return await self._harness.run(task, session, agents, attempt, seed=seed)
        heard = Heard(session)
        trajectory = await self._harness.run(task, heard, agents, attempt, seed=seed)
        if trajectory.fault is not None:  # it may have ended within a turn
            return trajectory
        found = context_leaks(trajectory, self._agents, self._harness.rules, heard.events)
        if not found:
            return trajectory
        detail = f"{LEAKED}: {'; '.join(found)}"
        return replace(trajectory, end=TerminationReason.FAILED, fault=Fault.ENV, detail=detail)

    async def drive(
        self,
        task: Task,
        target: Target,
        attempt: AttemptId,
        act: Act,
        *,
        observed: Observed | None = None,
    ) -> Attempt:
        """The same for whoever acts."""
        finished = await self._driver.run(task, target, attempt, act, observed=observed)
        finished = self._flag_leaked_answers(finished, target)
        found = Attempt(
            trajectory=finished.trajectory, verdict=located(finished.verdict, finished.trajectory.events)
        )
        if not found.is_scored:
            return found
        low, _ = reward_range(self._environment)
        if is_report(found.trajectory):  # gets the environment's lowest reward
            told = f"reported a flaw; the grader said {found.verdict.reward:g}: {found.verdict.evidence}"
            found = replace(
                found, verdict=replace(found.verdict, reward=low, scores={"success": 0.0}, evidence=told)
            )
        found = replace(
            found,
            penalty=proof_of(found.verdict, floor=low, extra=self._monitor.penalty if self._monitor else 0.0),
        )
        if self._monitor is None or finished.sealed is None:
            return found
        return await self._double_check(self._monitor, found, finished.sealed, target)

    def _flag_leaked_answers(self, finished: Finished, target: Target) -> Finished:
        """Flags an answer that the agent could read in its observations."""
        environment, sealed = self._environment, finished.sealed
        if not isinstance(environment, Answered) or sealed is None:
            return finished
        try:
            answers = environment.answers(finished.trajectory.task, target)
            found = leaks(finished.trajectory.events, answers, submitted=sealed.submitted)
        except Exception as error:  # the boundary, as for the grader
            return replace(finished, verdict=Verdict.void(f"env: {what_broke('answers', error)}"))
        return replace(
            finished, verdict=replace(finished.verdict, flags=(*finished.verdict.flags, *leak_flags(found)))
        )

    async def _double_check(
        self, monitor: Monitor, found: Attempt, sealed: EpisodeArtifacts, target: Target
    ) -> Attempt:
        """The reward stays what it was: a second look adds flags, gold, and perhaps a penalty."""
        at, verdict = found.trajectory.attempt, found.verdict
        flags = monitor.soft_evidence(found.trajectory, verdict)
        if monitor.wants_regrade(at) and not is_report(found.trajectory):
            again = await self._driver.grade_once(self._environment.grade, sealed, target)
            if again.status is Status.SCORED and again.reward != verdict.reward:
                said = f"reward {verdict.reward:g}, then {again.reward:g}: {again.evidence}"
                flags = (*flags, Flag(kind="regrade_differs", is_proof=False, detail=said))
        verdict = replace(verdict, flags=(*verdict.flags, *flags))
        found = replace(found, verdict=verdict)
        if isinstance(self._environment, Validated) and monitor.wants_gold(at, verdict):
            gold = await self._driver.grade_once(self._environment.gold, sealed, target)
            found = monitor.disbelieved(
                replace(found, gold=gold, gold_chance=monitor.gold_chance(at, verdict))
            )
        return found


def _fault_if_never_sampled(trajectory: Trajectory) -> Trajectory:
    """An attempt in which the policy was never asked for a token says nothing about the policy: its task does
    not fit.
    """
    if trajectory.turns or trajectory.fault is not None or trajectory.events:
        return trajectory
    detail = trajectory.detail or f"the policy was never asked for a token: {trajectory.end}"
    return replace(trajectory, end=TerminationReason.FAILED, fault=Fault.TASK, detail=detail)


def _without_task(env: str, attempt: AttemptId, why: str) -> Attempt:
    prompt = dict.fromkeys(Dialect, "")
    task = Task(
        id=f"{env}-{attempt.group}", env=env, split="", family="unknown", level=0, prompt=prompt, tools=()
    )
    trajectory = Trajectory(
        attempt=attempt,
        task=task,
        segments=(),
        turns=(),
        events=(),
        end=TerminationReason.FAILED,
        fault=Fault.ENV,
        detail=why,
    )
    return Attempt(trajectory=trajectory, verdict=Verdict.void(f"env: {why}"))
