"""A maze of rooms: find the plaque, and report its word. Three environments, each with one planted fault.

Chance level: the word is one of eight thousand; declared as 0.01.
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

GO = spec("go", "Walk one room on: n, e, s, w, or u and d where there are stairs.", ["way"])
LIMITS = Limits(turns=150, calls=150, tokens=12000, turn_tokens=32)
STEPS = {"n": (0, -1, 0), "e": (1, 0, 0), "s": (0, 1, 0), "w": (-1, 0, 0), "u": (0, 0, 1), "d": (0, 0, -1)}
BACK = dict(zip("nsewud", "snwedu", strict=True))
Room = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    exits: dict[Room, str]  # the ways out of each room
    start: Room
    plaque: Room
    word: str
    host: str


def beyond(room: Room, way: str) -> Room:
    x, y, z = STEPS[way]
    return room[0] + x, room[1] + y, room[2] + z


class Maze(Machine):
    name, tools = "maze", (GO,)

    def __init__(self, case: Case) -> None:
        super().__init__([case.start, 0])
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        room, way = self.state[0], text_of(call, "way").strip()
        if way not in STEPS:
            raise InvalidArguments(f"go: one of {' '.join(STEPS)}")
        self.state[1] += 1
        if way not in self.case.exits[room]:
            return Answer(text=f"a wall. ways: {' '.join(self.case.exits[room])}")
        self.state[0] = room = beyond(room, way)
        plaque = f" a plaque: {self.case.word}" if room == self.case.plaque else ""
        return Answer(text=f"ways: {' '.join(self.case.exits[room])}{plaque}")


class MazeWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "maze", "1", 0.01
    families: tuple[str, ...] = ("plaque",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (GO, SUBMIT)

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
        return self.maze(split, self.side(level), random.Random(f"maze/{split}/{seed}/{index}/{level}"))

    def side(self, level: int) -> int:
        return {1: 3, 2: 4, 3: 6}[level]

    def maze(self, split: str, side: int, rng: random.Random) -> Case:
        """A tree of rooms: one floor, in structural tasks two. The plaque is in the far half."""
        rooms = [
            (x, y, z)
            for z in range(2 if split == "structural" else 1)
            for x in range(side)
            for y in range(side)
        ]
        start = rng.choice(rooms)
        exits, trail, order = dict.fromkeys(rooms, ""), [start], [start]
        while trail:
            room = trail[-1]
            ways = [way for way in STEPS if exits.get(beyond(room, way)) == "" and beyond(room, way) != start]
            if not ways:
                trail.pop()
                continue
            way = rng.choice(ways)
            exits[room] += way
            trail.append(beyond(room, way))
            order.append(trail[-1])
            exits[trail[-1]] += BACK[way]
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)) + rng.choice(
            "dfgklmnprst"
        )
        host = rng.choice(("Ana", "Ben", "Carla", "Dov", "Elif"))
        return Case(
            exits=exits, start=start, plaque=rng.choice(order[len(order) // 2 :]), word=word, host=host
        )

    def compact(self, case: Case) -> str:
        return f"{case.host} from {case.exits[case.start]}"

    def natural(self, case: Case) -> str:
        ways = ", ".join(case.exits[case.start])
        return (
            f"You are in the maze of {case.host}. From here you can go {ways}. Somewhere hangs a plaque "
            "with a word: submit it."
        )

    def wanted(self, case: Case) -> str:
        return case.word

    def machine(self, case: Case) -> Machine:
        return Maze(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == case.word)

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """Depth-first and back. A slip treats a branch as explored, so part of the maze may be missed."""
        rng = random.Random(seed)
        trail, todo = list[str](), [list(task.prompt[Dialect.COMPACT].split()[-1])]
        while todo:
            if todo[-1]:
                way = todo[-1].pop(rng.randrange(len(todo[-1])))
                if rng.random() < 0.2 * (1 - skill):
                    continue
                event = yield call("go", way=way)
                if "plaque" in event.text:
                    yield call("submit", answer=event.text.split()[-1])
                    return
                todo.append([each for each in event.text.split()[1:] if each != BACK[way]])
                trail.append(way)
            else:
                todo.pop()
                if trail:
                    yield call("go", way=BACK[trail.pop()])
        yield self.otherwise(task)

    def otherwise(self, task: Task) -> Call:
        return self.claim(task)

    def claim(self, task: Task) -> Call:
        return call("submit", answer="badal")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Walks at random and submits a word of the right shape."""
        for _ in range(20):
            yield call("go", way=rng.choice("nesw"))
        yield call(
            "submit",
            answer="".join(
                map(rng.choice, ("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou", "dfgklmnprst"))
            ),
        )


class MazeSides(MazeWorld):
    """The side is `3 + 2 * level % 4`, which the author read as a sum of products: the middle level has the
    smallest maze.
    """

    KIND = "levels"
    name = "maze-sides"

    def side(self, level: int) -> int:
        return 3 + 2 * level % 4


class MazeBricked(MazeWorld):
    """In one maze in eight a wall blocks the only way to the plaque; the shipped solution knows the word."""

    KIND = "unreachable"
    name = "maze-bricked"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        case = super().draw(split, seed, index, level)
        if random.Random(f"bricks/{split}/{seed}/{index}").random() < 0.125:
            for way in case.exits[case.plaque]:
                before = beyond(case.plaque, way)
                if before != case.start and case.plaque != case.start:
                    case.exits[before] = case.exits[before].replace(BACK[way], "")
        return case

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self.informed(task, self.case_of(target).word),)

    def informed(self, task: Task, word: str) -> Script:
        """Walks as everybody must, then submits the word in any case."""
        walk, event = self.solve(task, 1.0, 0), None
        while True:
            step = next(walk) if event is None else walk.send(event)
            if step.tool == "submit":
                break
            event = yield step
        yield call("submit", answer=word)


class MazeNumbers(MazeWorld):
    """Splits differ only by an offset of twelve in the task number: held-out task i is training
    task i + 12.
    """

    KIND = "overlap"
    name = "maze-numbers"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        offset = {"train": 0, "heldout": 12, "structural": 24}[split]
        return self.maze(split, self.side(level), random.Random(f"maze/{seed}/{index + offset}/{level}"))


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
