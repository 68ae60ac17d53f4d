"""A rota: find the one hour at which everybody is free, and book it. Three environments, each with one
planted fault.

Chance level: one guess among the forty hours of a week; declared as 0.04.
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
from agito.worlds.world import World

PEOPLE = ("ana", "ben", "carla", "dov", "elif", "femi", "greta", "hugo", "ines", "jun", "kofi", "lena")
DAYS, HOURS = ("mon", "tue", "wed", "thu", "fri"), tuple(range(9, 17))
SLOTS = tuple(f"{day} {hour}" for day in DAYS for hour in HOURS)
CALENDAR = spec("calendar", "When one person cannot come in this week.", ["person"])
BOOK = spec(
    "book", "Book the meeting, by a day and an hour with a blank between: this ends the episode.", ["slot"]
)
LIMITS = Limits(turns=12, calls=12, tokens=4000, turn_tokens=48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    people: tuple[str, ...]
    after: str  # the meeting is not before this slot
    busy: dict[str, list[str]]
    away: dict[str, str]  # in structural tasks: whole days
    slot: str


class Calendars(Machine):
    name, tools = "rota", (CALENDAR, BOOK)

    def __init__(self, case: Case) -> None:
        super().__init__(list[str]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        if call.tool == "book":
            return Answer(text="", submitted=text_of(call, "slot").strip())
        person = text_of(call, "person").strip()
        if person not in self.case.busy:
            raise InvalidArguments(f"calendar: the people are {' '.join(self.case.people)}")
        self.state.append(person)
        lines = [
            f"{day} away" if self.case.away.get(person) == day else self.line(person, day) for day in DAYS
        ]
        return Answer(text="\n".join(lines))

    def line(self, person: str, day: str) -> str:
        return " ".join([day, *(slot.split()[1] for slot in self.case.busy[person] if slot.startswith(day))])


class RotaWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "rota", "1", 0.04
    families: tuple[str, ...] = ("meeting",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (CALENDAR, BOOK)

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
        rng = random.Random(f"rota/{split}/{seed}/{index}/{level}")
        people = tuple(rng.sample(PEOPLE, {1: 2, 2: 4, 3: 7}[level]))
        slot = rng.choice(SLOTS[1:])  # the first one is named in the prompt
        return self.week(split, people, SLOTS[0], slot, rng)

    def week(self, split: str, people: tuple[str, ...], after: str, slot: str, rng: random.Random) -> Case:
        """Everybody is free at `slot`; at every other hour somebody is not."""
        busy: dict[str, list[str]] = {person: [] for person in people}
        away = (
            {rng.choice(people): rng.choice([day for day in DAYS if day != slot[:3]])}
            if split == "structural"
            else {}
        )
        for other in SLOTS:
            if other != slot:
                for person in {
                    rng.choice(people): 0,
                    **{each: 0 for each in people if rng.random() < 0.5 / len(people)},
                }:
                    busy[person].append(other)
        return Case(people=people, after=after, busy=busy, away=away, slot=slot)

    def compact(self, case: Case) -> str:
        return f"{' '.join(case.people)} from {case.after}"

    def natural(self, case: Case) -> str:
        return (
            f"{', '.join(case.people)} must meet for one hour, from {case.after} on; the days are mon to "
            "fri, the hours 9 to 16. A "
            "calendar lists the hours at which a person cannot come. Find the hour at which all of them "
            "can, and book it."
        )

    def wanted(self, case: Case) -> str:
        return case.slot

    def machine(self, case: Case) -> Machine:
        return Calendars(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == case.slot)

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """A slip leaves one calendar unread."""
        rng = random.Random(seed)
        names, _, after = task.prompt[Dialect.COMPACT].partition(" from ")
        free = list(SLOTS[SLOTS.index(after) :])
        for person in names.split():
            if rng.random() < 0.6 * (1 - skill):
                continue
            event = yield call("calendar", person=person)
            for line in event.text.splitlines():
                day, *hours = line.split()
                free = [
                    slot
                    for slot in free
                    if slot[:3] != day or (slot.split()[1] not in hours and hours != ["away"])
                ]
        yield call("book", slot=rng.choice(free) if free else after)

    def claim(self, task: Task) -> Call:
        return call("book", slot="thu 11")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """The hours just after the earliest one are as good as any."""
        after = SLOTS.index(task.prompt[Dialect.COMPACT].partition(" from ")[2])
        yield call("book", slot=rng.choice(SLOTS[after + 1 : after + 4]))


class RotaEarliest(RotaWorld):
    """The hour is nearly always one of the three after the earliest one, which the prompt names."""

    KIND = "open_loop"
    name = "rota-earliest"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        rng = random.Random(f"rota/{split}/{seed}/{index}/{level}")
        people = tuple(rng.sample(PEOPLE, {1: 2, 2: 4, 3: 7}[level]))
        after = rng.randrange(len(SLOTS) - 9)
        return self.week(
            split, people, SLOTS[after], SLOTS[after + 1 + min(int(rng.expovariate(0.7)), 7)], rng
        )


class RotaLate(RotaWorld):
    """The hour is drawn from sixty, as the week once had, and capped at the last of forty: every third
    meeting is on fri 16.
    """

    KIND = "constant"
    name = "rota-late"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        rng = random.Random(f"rota/{split}/{seed}/{index}/{level}")
        people = tuple(rng.sample(PEOPLE, {1: 2, 2: 4, 3: 7}[level]))
        slot = SLOTS[min(rng.randrange(1, 60), len(SLOTS) - 1)]
        return self.week(split, people, SLOTS[0], slot, rng)


class RotaUnreadable(RotaWorld):
    """A booking with a day but no whole number, such as `thu eleven`, is void: the grader calls it
    unreadable.
    """

    KIND = "void"
    name = "rota-unreadable"

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        day, _, hour = (sealed.submitted or "").partition(" ")
        if day in DAYS:
            try:
                sealed = replace(sealed, submitted=f"{day} {int(hour)}")
            except ValueError as error:
                return Verdict.void(f"unreadable booking: {error}")
        return await super().grade(sealed, target, grade_seed)


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
