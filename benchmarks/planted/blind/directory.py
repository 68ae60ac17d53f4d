"""A firm's directory: follow links from one person to another, and name the desk of the last. Three
environments, each with one planted fault.

Chance level: a desk is one of nine thousand; declared as 0.01.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

NAMES = (
    "Abel",
    "Bela",
    "Cato",
    "Dana",
    "Emil",
    "Fay",
    "Gus",
    "Hana",
    "Ivo",
    "Jana",
    "Karl",
    "Lia",
    "Milo",
    "Nora",
    "Olga",
    "Paul",
    "Quin",
    "Rosa",
    "Saul",
    "Tess",
    "Udo",
    "Vera",
    "Will",
    "Xena",
)
FIRMS = ("Arbor", "Basalt", "Cobalt", "Delta", "Ember", "Fjord", "Gale", "Harbour")
LINKS = {
    "train": ("head", "deputy"),
    "heldout": ("head", "deputy"),
    "structural": ("mentor", "partner", "auditor"),
}
LOOKUP = spec(
    "lookup",
    "What the directory says of somebody under a heading, such as `head` or `desk`.",
    ["name", "heading"],
)
LIMITS = Limits(turns=16, calls=16, tokens=3000, turn_tokens=48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The question: from whom, by which links, and the answer."""

    start: str
    links: tuple[str, ...]
    person: str
    desk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    firm: str
    people: dict[str, dict[str, str]]
    query: Query


class Directory(Machine):
    name, tools = "directory", (LOOKUP,)

    def __init__(self, case: Case) -> None:
        super().__init__(list[str]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        name, heading = text_of(call, "name").strip(), text_of(call, "heading").strip()
        if heading not in self.case.people.get(name, {}):
            raise InvalidArguments(self.missing(name, heading))
        self.state.append(f"{name} {heading}")
        return Answer(text=self.case.people[name][heading])

    def missing(self, name: str, heading: str) -> str:
        return "lookup: nothing under this name and heading"


class DirectoryWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "directory", "1", 0.01
    families: tuple[str, ...] = ("desk",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (LOOKUP, SUBMIT)

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
        rng = random.Random(f"directory/{split}/{seed}/{index}/{level}")
        return self.firm(split, level, rng.choice(FIRMS), rng)

    def firm(self, split: str, level: int, firm: str, rng: random.Random) -> Case:
        desks = [f"{rng.choice('ABCDEFGHJ')}{number}" for number in rng.sample(range(100, 1000), len(NAMES))]
        people = {
            name: {link: rng.choice(NAMES) for link in LINKS[split]} | {"desk": desks[at]}
            for at, name in enumerate(NAMES)
        }
        start, links = (
            rng.choice(NAMES),
            tuple(rng.choice(LINKS[split]) for _ in range({1: 1, 2: 3, 3: 6}[level])),
        )
        person = start
        for link in links:
            person = people[person][link]
        return Case(
            firm=firm,
            people=people,
            query=Query(start=start, links=links, person=person, desk=people[person]["desk"]),
        )

    def compact(self, case: Case) -> str:
        return f"{case.firm} desk {case.query.start} {' '.join(case.query.links)}"

    def natural(self, case: Case) -> str:
        of = " of the ".join(reversed(case.query.links))
        return (
            f"In the directory of the firm {case.firm}: at which desk sits the {of} of "
            f"{case.query.start}? Look it up and submit it."
        )

    def wanted(self, case: Case) -> str:
        return case.query.desk

    def machine(self, case: Case) -> Machine:
        return Directory(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == case.query.desk)

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """A slip follows a link twice or forgets it."""
        rng = random.Random(seed)
        _, _, person, *links = task.prompt[Dialect.COMPACT].split()
        for link in links:
            if rng.random() >= 0.4 * (1 - skill):
                event = yield call("lookup", name=person, heading=link)
                person = event.text
        event = yield call("lookup", name=person, heading="desk")
        yield call("submit", answer=event.text)

    def claim(self, task: Task) -> Call:
        return call("submit", answer="A100")

    def blind(self, task: Task, rng: random.Random) -> Script:
        yield call("lookup", name=task.prompt[Dialect.COMPACT].split()[2], heading="desk")
        yield call("submit", answer=f"{rng.choice('ABCDEFGHJ')}{rng.randrange(100, 1000)}")


class DirectoryDebug(DirectoryWorld):
    """Looking up a missing heading shows the author's debugging line, with the whole query and its desk."""

    KIND = "told"
    name = "directory-debug"

    def machine(self, case: Case) -> Machine:
        return TalkativeDirectory(case)


class TalkativeDirectory(Directory):
    def missing(self, name: str, heading: str) -> str:
        is_person = name in self.case.people
        return (
            f"lookup: KeyError({heading!r}) in {self.case.query!r}"
            if is_person
            else super().missing(name, heading)
        )


class DirectoryFirms(DirectoryWorld):
    """The seed of the people is cut to two bits, so a level has only four directories, under many
    firm names.
    """

    KIND = "serial"
    name = "directory-firms"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        drawn = zlib.crc32(f"directory/{split}/{seed}/{index}/{level}".encode())
        one, other = FIRMS[drawn % len(FIRMS)], FIRMS[drawn // 8 % len(FIRMS)]
        firm = f"{one} & {other} {1900 + drawn // 64 % 120}".replace(" ", "-")
        return self.firm(split, level, firm, random.Random(f"{split}/{level}/{drawn >> 30}"))


class DirectoryAnchors(DirectoryWorld):
    """One held-out task in four is a training task, added to watch for forgetting and never removed."""

    KIND = "overlap"
    name = "directory-anchors"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        is_anchor = split == "heldout" and index % 4 == 3
        return (
            super().draw("train", seed, index // 4, level)
            if is_anchor
            else super().draw(split, seed, index, level)
        )


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
