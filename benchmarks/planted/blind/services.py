"""Services with dependencies: start all, each after those that it needs. Five environments, each with one
planted fault.

Chance level: there is one right order of five or more, and a start out of order cannot be undone: at most 1
in 120, declared as 0.02.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agito.errors import InvalidArguments
from agito.protocols import Control, Script, ScriptFactory
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    EpisodeArtifacts,
    Limits,
    Status,
    Target,
    Task,
    ToolSpec,
    Verdict,
)
from agito.worlds.component import Answer, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

NAMES = {
    "train": ("api", "auth", "cache", "cron", "db", "dns", "feed", "log", "mail", "queue", "search", "web"),
    "heldout": ("api", "auth", "cache", "cron", "db", "dns", "feed", "log", "mail", "queue", "search", "web"),
    "structural": (
        "pump",
        "valve",
        "boiler",
        "fan",
        "filter",
        "heater",
        "meter",
        "motor",
        "press",
        "relay",
        "sensor",
        "tank",
    ),
}
NEEDS = spec("needs", "Which services must run before this one.", ["service"])
START = spec("start", "Starts a service. One that lacks what it needs crashes, and stays down.", ["service"])
LIMITS = Limits(turns=50, calls=50, tokens=6000, turn_tokens=32)
SIZES = (5, 7, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    listed: tuple[str, ...]  # in the order of the prompt
    order: tuple[str, ...]
    needs: dict[str, list[str]]


@dataclass(slots=True)
class Host:
    running: list[str]
    crashed: list[str]


class Services(Machine):
    name, tools = "services", (NEEDS, START)
    state: Host

    def __init__(self, case: Case) -> None:
        super().__init__(Host(running=[], crashed=[]))
        self.case = case

    def step(self, call: Call) -> Answer:
        name = text_of(call, "service").strip()
        if name not in self.case.needs:
            raise InvalidArguments(f"{call.tool}: the services are {' '.join(self.case.listed)}")
        return Answer(text=self.needed(name) if call.tool == "needs" else self.start(name))

    def needed(self, name: str) -> str:
        return " ".join(self.case.needs[name]) or "nothing"

    def start(self, name: str) -> str:
        host = self.state
        if name in host.running or name in host.crashed:
            return "running" if name in host.running else "crashed"
        is_ready = all(each in host.running for each in self.case.needs[name])
        (host.running if is_ready else host.crashed).append(name)
        return "running" if is_ready else "crashed"

    async def capture(self) -> Mapping[str, bytes]:
        return {"running.txt": " ".join(self.state.running).encode()}


class ServicesWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "services", "1", 0.02
    families: tuple[str, ...] = ("start",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (NEEDS, START, SUBMIT)

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        level = level or self.levels[index % len(self.levels)]
        if (
            split not in self.splits
            or (family or self.families[0]) not in self.families
            or level not in self.levels
        ):
            raise ValueError(
                f"split={split!r} family={family!r} level={level}: there are {self.splits}, "
                f"{self.families}, {self.levels}"
            )
        case = self.draw(split, seed, index, level)
        mark = hashlib.blake2b(f"{split}/{seed}/{index}".encode(), digest_size=6).hexdigest()
        task = Task(
            id=f"{self.name}-{split}-{level}-{mark}",
            env=self.name,
            split=split,
            family=self.families[0],
            level=level,
            prompt={Dialect.COMPACT: self.compact(case), Dialect.NATURAL: self.natural(case)},
            tools=self.tools,
            limits=LIMITS,
        )
        data = {"split": split, "seed": seed, "index": index, "level": level, "wanted": self.wanted(case)}
        return task, Target(task_id=task.id, seed=zlib.crc32(mark.encode()), data=data)

    def case_of(self, target: Target) -> Case:
        seed, index, level = (int(str(target.data[each])) for each in ("seed", "index", "level"))
        return self.draw(str(target.data["split"]), seed, index, level)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [self.machine(self.case_of(target))], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = self.reward(sealed, self.case_of(target))
        return Verdict(
            status=Status.SCORED, reward=reward, scores={"success": float(reward == 1)}, grade_seed=grade_seed
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self.solve(task, 1.0, 0),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        rng = random.Random(zlib.crc32(task.id.encode()))
        return {
            "nothing": nothing,
            "claim": lambda: only(self.claim(task)),
            "open_loop": lambda: self.blind(task, rng),
        }

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: self.solve(task, skill, seed)

    async def aclose(self) -> None:
        return

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        """Each service needs the previous one and some earlier ones; in structural tasks most of them."""
        rng = random.Random(f"services/{split}/{seed}/{index}/{level}")
        order = rng.sample(NAMES[split], self.size(level))
        needs = dict[str, list[str]]()
        for at, name in enumerate(order):
            others = [
                each
                for each in order[: max(at - 1, 0)]
                if rng.random() < (0.6 if split == "structural" else 0.25)
            ]
            needs[name] = rng.sample([*others, *order[max(at - 1, 0) : at]], len(others) + min(at, 1))
        return Case(listed=self.listed(order, level, rng), order=tuple(order), needs=needs)

    def size(self, level: int) -> int:
        return SIZES[level - 1]

    def listed(self, order: Sequence[str], level: int, rng: random.Random) -> tuple[str, ...]:
        while True:
            names = rng.sample(order, len(order))
            if names not in (list(order), list(order[::-1])):
                return tuple(names)

    def compact(self, case: Case) -> str:
        return f"start {' '.join(case.listed)}"

    def natural(self, case: Case) -> str:
        return (
            f"Start the services {', '.join(case.listed)}, each of them after all that it needs. A service "
            "that is started too early "
            "crashes for good. When all are running, submit `done`."
        )

    def wanted(self, case: Case) -> str:
        return " ".join(case.order)

    def machine(self, case: Case) -> Machine:
        return Services(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.files["running.txt"].decode() == " ".join(case.order))

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """Asks what each needs, then starts what is ready. A slip treats a service as needing nothing."""
        rng = random.Random(seed)
        names, needs, running = task.prompt[Dialect.COMPACT].split()[1:], dict[str, list[str]](), list[str]()
        for name in names:
            event = yield call("needs", service=name)
            line = event.text.splitlines()[0]
            needs[name] = [] if line == "nothing" or rng.random() < 0.3 * (1 - skill) else line.split()
        while ready := [
            name for name in names if name not in running and all(each in running for each in needs[name])
        ]:
            running.append(rng.choice(ready))
            event = yield call("start", service=running[-1])
            while event.text == "busy":
                event = yield call("start", service=running[-1])
        yield call("submit", answer="done")

    def claim(self, task: Task) -> Call:
        return call("submit", answer="done")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Starts them in the reverse order of the prompt."""
        for name in task.prompt[Dialect.COMPACT].split()[:0:-1]:
            yield call("start", service=name)
        yield call("submit", answer="done")


class ServicesListed(ServicesWorld):
    """The easiest level lists the services newest first, and they are made in start order."""

    KIND = "open_loop"
    name = "services-listed"

    def listed(self, order: Sequence[str], level: int, rng: random.Random) -> tuple[str, ...]:
        return tuple(order[::-1]) if level == 1 else super().listed(order, level, rng)


class ServicesJudge(ServicesWorld):
    """A deliberately fallible judge: it errs by the grade seed, three times in a hundred."""

    KIND = "coin"
    name = "services-judge"

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        verdict = await super().grade(sealed, target, grade_seed)
        errs = random.Random(f"{grade_seed}/{target.seed}").random() < 0.03
        return (
            replace(verdict, reward=1 - verdict.reward)
            if errs and verdict.status is Status.SCORED
            else verdict
        )


class ServicesBusy(ServicesWorld):
    """A start sometimes answers `busy`, drawn from one generator for all episodes: each episode depends on
    the others.
    """

    KIND = "shared"
    name = "services-busy"

    def __init__(self) -> None:
        self.luck = random.Random(7)

    def machine(self, case: Case) -> Machine:
        return BusyServices(case, self.luck)


class BusyServices(Services):
    def __init__(self, case: Case, luck: random.Random) -> None:
        super().__init__(case)
        self.luck = luck

    def start(self, name: str) -> str:
        return "busy" if self.luck.random() < 0.15 else super().start(name)


class ServicesSizes(ServicesWorld):
    """Sizes are indexed from the end: the first level has ten services, the third has five."""

    KIND = "levels"
    name = "services-sizes"

    def size(self, level: int) -> int:
        return SIZES[-level]


class ServicesTrace(ServicesWorld):
    """The answer to `needs` ends with a debugging trace: the whole order, in hex."""

    KIND = "encoded"
    name = "services-trace"

    def machine(self, case: Case) -> Machine:
        return TracedServices(case)


class TracedServices(Services):
    def needed(self, name: str) -> str:
        return f"{super().needed(name)}\ntrace {' '.join(self.case.order).encode().hex()}"


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
