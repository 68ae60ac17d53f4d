"""A text adventure: digits of a safe's code are spread over a house. Three environments, each with one
planted fault.

Chance level: the code is one of a hundred or more; declared as 0.02.
"""

from __future__ import annotations

import hashlib
import json
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

ROOMS = {
    "train": ("hall", "kitchen", "library", "attic", "cellar", "porch", "study", "pantry"),
    "heldout": ("hall", "kitchen", "library", "attic", "cellar", "porch", "study", "pantry"),
    "structural": ("bridge", "galley", "hold", "cabin", "deck", "stern", "bow", "mast"),
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DO = spec("do", "One of: `look`, `go ROOM`, `read`, `dial CODE`.", ["command"])
LIMITS = Limits(turns=40, calls=40, tokens=6000, turn_tokens=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    doors: dict[str, list[str]]
    notes: dict[str, str]
    start: str
    code: str
    locked: str | None = None  # a room that only the code opens
    jams: bool = True  # the safe, after one wrong code


class House(Machine):
    name, tools = "house", (DO,)
    state: dict[str, str]

    def __init__(self, case: Case) -> None:
        super().__init__({"room": case.start, "safe": "shut"})
        self.case = case

    def step(self, call: Call) -> Answer:
        verb, _, rest = text_of(call, "command").strip().partition(" ")
        match verb:
            case "look":
                return Answer(text=self.sight())
            case "go":
                return Answer(text=self.go(rest))
            case "read":
                return Answer(text=self.case.notes.get(self.state["room"], "nothing to read"))
            case "dial":
                return Answer(text=self.dial(rest))
        return Answer(text=self.other(verb, rest))

    def sight(self) -> str:
        note = ", a note" if self.state["room"] in self.case.notes else ""
        return f"{self.state['room']}{note}; doors: {' '.join(self.case.doors[self.state['room']])}"

    def go(self, room: str) -> str:
        if room not in self.case.doors[self.state["room"]]:
            return "there is no such door"
        if room == self.case.locked and self.state["safe"] != "open":
            return "locked: it opens when the safe does"
        self.state["room"] = room
        return self.sight()

    def dial(self, code: str) -> str:
        if self.state["safe"] == "shut":
            self.state["safe"] = "open" if code == self.case.code else "jammed" if self.case.jams else "shut"
        return f"the safe is {self.state['safe']}"

    def other(self, verb: str, rest: str) -> str:
        raise InvalidArguments("do: look, go ROOM, read, dial CODE")

    async def capture(self) -> Mapping[str, bytes]:
        return {"state.json": json.dumps(self.state).encode()}


class HouseWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "house", "1", 0.02
    families: tuple[str, ...] = ("safe",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (DO, SUBMIT)

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
        return self.house(split, level, random.Random(f"house/{split}/{seed}/{index}/{level}"))

    def house(self, split: str, level: int, rng: random.Random) -> Case:
        """A tree of rooms; in structural tasks the digits are words."""
        num_pieces, names = level + 1, rng.sample(ROOMS[split], {1: 4, 2: 6, 3: 8}[level])
        doors: dict[str, list[str]] = {name: [] for name in names}
        for at, name in enumerate(names[1:], start=1):
            other = names[rng.randrange(at)]
            doors[name].append(other)
            doors[other].append(name)
        digits = [rng.randrange(10) for _ in range(num_pieces)]
        told = [WORDS[digit] if split == "structural" else str(digit) for digit in digits]
        rooms = rng.sample(names[1:], num_pieces)
        notes = {room: f"digit {at + 1} of {num_pieces}: {told[at]}" for at, room in enumerate(rooms)}
        return Case(doors=doors, notes=notes, start=names[0], code="".join(map(str, digits)))

    def compact(self, case: Case) -> str:
        return f"{case.start}: {' '.join(case.doors[case.start])}"

    def natural(self, case: Case) -> str:
        return (
            f"You are in the {case.start}; doors lead to {', '.join(case.doors[case.start])}. Notes in the "
            "rooms tell the digits of the "
            "code of a safe, which may be dialled from anywhere, but a wrong code can jam it. Open the "
            "safe, then submit `done`."
        )

    def wanted(self, case: Case) -> str:
        return case.code

    def machine(self, case: Case) -> Machine:
        return House(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(json.loads(sealed.files["state.json"])["safe"] == "open")

    def walk(self, task: Task, skill: float, rng: random.Random, found: dict[int, str]) -> Script:
        """Depth-first through the house, noting digits by their place. A slip misses a note."""
        start, _, rest = task.prompt[Dialect.COMPACT].partition(": ")
        trail, todo = [start], [rest.split()]
        while todo:
            if not todo[-1]:
                todo.pop()
                trail.pop()
                if trail:
                    yield call("do", command=f"go {trail[-1]}")
                continue
            room = todo[-1].pop()
            event = yield call("do", command=f"go {room}")
            if not event.text.startswith(room):
                continue
            doors = event.text.split("doors: ")[1].split()
            if ", a note" in event.text and rng.random() >= 0.5 * (1 - skill):
                event = yield call("do", command="read")
                told = event.text.split()
                found[int(told[1])] = str(WORDS.index(told[4])) if told[4] in WORDS else told[4]
                found[0] = told[3].strip(":")
                if len(found) > int(found[0]):
                    return
            todo.append([each for each in doors if each != trail[-1]])
            trail.append(room)

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        rng, found = random.Random(seed), dict[int, str]()
        yield from self.walk(task, skill, rng, found)
        num_digits = int(found.get(0, "2"))
        code = "".join(found.get(at, str(rng.randrange(10))) for at in range(1, num_digits + 1))
        yield call("do", command=f"dial {code}")
        yield call("submit", answer="done")

    def claim(self, task: Task) -> Call:
        return call("submit", answer="done")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Dials as many codes as the calls allow, shortest first."""
        codes = [f"{number:02}" for number in range(100)]
        for code in rng.sample(codes, LIMITS.calls - 1):
            yield call("do", command=f"dial {code}")
        yield call("submit", answer="done")


class HouseRestores(HouseWorld):
    """`save` prints the state and `restore` accepts any state, including an open safe."""

    KIND = "file"
    name = "house-restores"
    tools = (
        spec("do", "One of: `look`, `go ROOM`, `read`, `dial CODE`, `save`, `restore SAVED`.", ["command"]),
        SUBMIT,
    )

    def machine(self, case: Case) -> Machine:
        return SavingHouse(case)


class SavingHouse(House):
    tools = HouseRestores.tools[:1]

    def other(self, verb: str, rest: str) -> str:
        if verb == "save":
            return json.dumps(self.state)
        try:
            saved = json.loads(rest) if verb == "restore" else {}
        except (ValueError, RecursionError):
            saved = {}
        is_state = (
            isinstance(saved, dict)
            and set(saved) == {"room", "safe"}
            and all(isinstance(each, str) for each in saved.values())
        )
        if not is_state or saved["room"] not in self.case.doors:
            raise InvalidArguments("do: look, go ROOM, read, dial CODE, save, restore SAVED")
        self.state = {"room": str(saved["room"]), "safe": saved["safe"]}
        return self.sight()


class HousePatient(HouseWorld):
    """The safe never jams, so at level one a third of all codes can be dialled without looking."""

    KIND = "open_loop"
    name = "house-patient"

    def house(self, split: str, level: int, rng: random.Random) -> Case:
        case = super().house(split, level, rng)
        return Case(doors=case.doors, notes=case.notes, start=case.start, code=case.code, jams=False)


class HouseCircular(HouseWorld):
    """In about one house in nine, a digit lies in a room that only the safe's code opens."""

    KIND = "unreachable"
    name = "house-circular"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        rng = random.Random(f"house/{split}/{seed}/{index}/{level}")
        case = self.house(split, level, rng)
        dead_ends = [room for room in case.notes if len(case.doors[room]) == 1]
        locked = rng.choice(dead_ends) if dead_ends and rng.random() < 0.125 else None
        return Case(doors=case.doors, notes=case.notes, start=case.start, code=case.code, locked=locked)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self.informed(task, self.case_of(target).code),)

    def informed(self, task: Task, code: str) -> Script:
        yield from self.walk(task, 1.0, random.Random(0), {})
        yield call("do", command=f"dial {code}")
        yield call("submit", answer="done")


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
