"""Rules about grading, and about the scripts that an environment ships: solutions, negative controls,
demonstrator.
"""

from __future__ import annotations

import math
from unittest import SkipTest

from agito.protocols import OPEN_LOOP, Environment, ScriptFactory
from agito.rollout import out_of_range, reward_range
from agito.testing.contract import require, rule
from agito.testing.environment.base import EnvironmentBase, tail
from agito.testing.episodes import Played, nothing, play
from agito.types import AttemptId, Dialect, Status, Target, Task, Verdict

SURE = 1e-3  # an agent is above the floor if luck explains its rewards with a smaller probability
MIN_SPREAD = 0.2  # minimal growth of the demonstrator's success from skill 0 to 1


def attempt(number: int) -> AttemptId:
    return AttemptId(group=number, slot=0)


def same(one: Verdict, two: Verdict) -> bool:
    """Equality that treats the NaN of void verdicts as equal."""
    return repr(one) == repr(two)


class VerdictRules(EnvironmentBase):
    @rule(
        "make solutions read what the world answers, so that they go on after a timeout or without a "
        "missing tool",
        says="every solution earns full marks, whatever faults it meets",
    )
    async def test_every_solution_earns_full_marks_whatever_faults_it_meets(self) -> None:
        async with self.environment() as env:
            for split in env.splits:
                for task, target in self.sample(env, split):
                    solutions = env.solutions(task, target)
                    require(len(solutions) > 0, f"{task.id} has no solution")
                    for number, factory in enumerate(solutions):
                        for noise in range(self.num_noise):
                            played = await play(env, task, target, factory, noise_seed=noise)
                            got, remedy = _unsolved(played, task)
                            require(
                                played.verdict.reward == self.full_reward,
                                f"solution {number} of {task.id} under noise {noise} {got}",
                                remedy,
                            )

    @rule("make the two dialects two ways to write the same calls: parse(action(call)) must be that call")
    async def test_a_solution_gets_the_same_verdict_through_every_dialect(self) -> None:
        renderers = self.renderers()
        if not renderers:
            raise SkipTest("override renderers() to give one renderer per dialect")
        async with self.environment() as env:
            for task, target in self.sample(env, "heldout"):
                for factory in env.solutions(task, target):
                    plain = await play(env, task, target, factory)
                    for renderer in renderers:
                        require(
                            len(renderer.opening(task)) > 0,
                            f"the {renderer.dialect} prompt of {task.id} is empty",
                        )
                        played = await play(env, task, target, factory, renderer=renderer)
                        rewards = played.verdict.reward, plain.verdict.reward
                        got = (
                            f"{task.id} through the {renderer.dialect} dialect earns {rewards[0]}, "
                            f"directly {rewards[1]}"
                        )
                        require(rewards[0] == rewards[1], got)
        missing = set(Dialect) - {renderer.dialect for renderer in renderers}
        require(not missing, f"renderers() lacks {sorted(missing)}")

    @rule(
        "ship agents that do nothing, guess and claim, and `open_loop`, which acts from the prompt alone; "
        "close whatever pays them"
    )
    async def test_negative_controls_stay_at_the_floor(self) -> None:
        async with self.environment() as env:
            names = set(env.negative_controls(env.task(split="train", index=0, seed=self.seed)[0]))
            require(
                OPEN_LOOP in names,
                f"the negative controls are {', '.join(sorted(names)) or 'none'}: there is no {OPEN_LOOP!r}",
            )
            for name in sorted(names):
                rewards = [
                    await self.reward_of_control(env, name, index) for index in range(self.num_episodes)
                ]
                require_floor(name, rewards, env)

    async def reward_of_control(self, env: Environment, name: str, index: int) -> float:
        task, target = env.task(split="heldout", index=index, seed=self.seed)
        factory: ScriptFactory | None = env.negative_controls(task).get(name)
        return (await play(env, task, target, factory, attempt(index))).verdict.reward if factory else 0.0

    @rule(
        "let `grade` stay between 0 and 1, or declare `reward_range`, the lowest and the highest reward",
        says="every reward lies in the declared range",
    )
    async def test_every_reward_lies_in_the_declared_range(self) -> None:
        async with self.environment() as env:
            for task, target in self.sample(env, "heldout"):
                for factory in (
                    *env.solutions(task, target),
                    *env.negative_controls(task).values(),
                    nothing(),
                ):
                    sealed = (await play(env, task, target, factory)).sealed
                    outside = out_of_range(await env.grade(sealed, target, 0), env)
                    require(not outside, f"{task.id}: {outside}")

    @rule("score an untouched world: reward at the floor, status scored, not void")
    async def test_doing_nothing_is_scored_and_earns_nothing(self) -> None:
        async with self.environment() as env:
            rewards: list[float] = []
            for index in range(self.num_episodes):
                task, target = env.task(split="heldout", index=index, seed=self.seed)
                verdict = await env.grade(
                    (await play(env, task, target, nothing(), attempt(index))).sealed, target, 0
                )
                require(
                    verdict.status is Status.SCORED, f"doing nothing in {task.id} is void: {verdict.evidence}"
                )
                rewards.append(verdict.reward)
            require_floor("doing nothing", rewards, env)

    @rule(
        "let `grade` depend on the capture, the target and the grade seed only; no live world, no clock, no "
        "counter"
    )
    async def test_a_verdict_is_a_pure_function_of_what_was_captured(self) -> None:
        async with self.environment() as env, self.environment() as other:
            for task, target in self.sample(env, "heldout"):
                for factory in (env.solutions(task, target)[0], nothing()):
                    sealed = (await play(env, task, target, factory)).sealed
                    once = await env.grade(sealed, target, 5)
                    again = [await env.grade(sealed, target, 5), await other.grade(sealed, target, 5)]
                    require(
                        all(same(once, verdict) for verdict in again),
                        f"{task.id} graded again: {once} and {again}",
                    )
                    require(
                        once.grade_seed == 5,
                        f"the verdict on {task.id} carries grade seed {once.grade_seed}, not 5",
                    )

    @rule(
        "draw each decision of the demonstrator rightly with probability `skill`, from a generator seeded "
        "by `seed`",
        says="the demonstrator's success falls with its skill",
    )
    async def test_the_demonstrators_success_falls_with_its_skill(self) -> None:
        async with self.environment() as env:
            low, high = [await self.success(env, skill) for skill in (0.0, 1.0)]
            require(high - low >= MIN_SPREAD, f"success is {low:.2f} at skill 0 and {high:.2f} at skill 1")
            half = await self.success(env, 0.5)
            slack = 2 * math.sqrt(0.25 / self.num_episodes)
            require(
                low - slack <= half <= high + slack,
                f"success is {low:.2f}, {half:.2f}, {high:.2f} at skill 0, 0.5, 1",
            )

    async def success(self, env: Environment, skill: float) -> float:
        rewards: list[float] = []
        for index in range(self.num_episodes):
            task, target = env.task(split="train", index=index, seed=self.seed)
            factory = env.demonstrator(task, target, skill=skill, seed=index)
            rewards.append((await play(env, task, target, factory, attempt(index))).verdict.reward)
        return sum(reward == self.full_reward for reward in rewards) / len(rewards)

    @rule("seed the demonstrator's generator with `seed` alone")
    async def test_the_demonstrator_is_deterministic_given_its_seed(self) -> None:
        async with self.environment() as env:
            for index in range(self.num_stream(env)):
                task, target = env.task(split="train", index=index, seed=self.seed)
                calls = [await self.demonstrate(env, task, target) for _ in range(2)]
                require(calls[0] == calls[1], f"two demonstrations of {task.id} with one seed differ")

    async def demonstrate(self, env: Environment, task: Task, target: Target) -> list[str]:
        played = await play(env, task, target, env.demonstrator(task, target, skill=0.5, seed=11))
        return [f"{event.call.tool} {event.call.arguments}" for event in played.events]


def require_floor(name: str, rewards: list[float], env: Environment) -> None:
    """Uses the exact binomial tail, a good bound for any rewards with that mean between the lowest and the
    highest.
    """
    void = sum(math.isnan(reward) for reward in rewards)
    require(not void, f"{name} gets no verdict in {void} of {len(rewards)} episodes")
    low, high = reward_range(env)
    scaled = [(min(max(reward, low), high) - low) / (high - low) for reward in rewards]
    chance = min(max((env.chance_level - low) / (high - low), 0.0), 1.0)
    luck = tail(sum(scaled), len(scaled), chance)
    require(
        luck >= SURE,
        f"{name} earns {sum(rewards):g} in {len(rewards)} episodes where luck earns "
        f"{env.chance_level * len(rewards):.2g} (p={luck:.1g})",
    )


def _unsolved(played: Played, task: Task) -> tuple[str, str]:
    """What a solution came to, and what to do when no fault was injected (else what the rule says)."""
    limit = {"turns": task.limits.turns, "calls": task.limits.calls, "tokens": task.limits.tokens}.get(
        played.end
    )
    ended = f"the attempt ended by {played.end}" + (f" ({limit})" if limit is not None else "")
    evidence = f": {played.verdict.evidence}" if played.verdict.evidence else ""
    got = f"earns {played.verdict.reward:g}{evidence}; {ended}"
    if any(event.fault for event in played.events):
        return got, ""
    if limit is not None:
        return got, f"allow in `limits` the {played.end} that the solution needs, and a few more"
    return got, "no fault was injected: compare what the solution submits with what `grade` asks for"
