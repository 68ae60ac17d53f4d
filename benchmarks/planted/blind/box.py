"""A box with an unknown rule: query it with small numbers, then predict a large one. Three environments, each
with one planted fault.

Chance level: the answer is one of 997 numbers; declared as 0.01.
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

ASK = spec("ask", "What the box makes of a whole number from 0 to 19.", ["number"])
LIMITS = Limits(turns=16, calls=16, tokens=3000, turn_tokens=48)
PRIME = 997


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    rules: tuple[tuple[int, ...], ...]  # coefficients, constant first; a second rule applies to odd numbers
    target: int
    answer: int
    label: str


def made_of(rules: Sequence[Sequence[int]], number: int) -> int:
    return sum(factor * number**power for power, factor in enumerate(rules[number % len(rules)])) % PRIME


def foretell(points: Mapping[int, int], number: int) -> int:
    """The value at `number` of the polynomial of least degree through the points, modulo the prime."""
    total = 0
    for at, value in points.items():
        for other in points:
            if other != at:
                value = value * (number - other) * pow(at - other, -1, PRIME) % PRIME
        total += value
    return total % PRIME


class Box(Machine):
    name, tools = "box", (ASK,)

    def __init__(self, case: Case) -> None:
        super().__init__(list[int]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        said = text_of(call, "number").strip()
        if said not in map(str, range(20)):
            raise InvalidArguments("ask: a whole number from 0 to 19")
        self.state.append(int(said))
        return Answer(text=str(made_of(self.case.rules, int(said))))


class BoxWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "box", "1", 0.01
    families: tuple[str, ...] = ("foretell",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (ASK, SUBMIT)

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
        """In structural tasks odd numbers have their own rule."""
        rng = random.Random(f"box/{split}/{seed}/{index}/{level}")
        num_rules = 2 if split == "structural" else 1
        rules = tuple(
            tuple(rng.randrange(1, PRIME) for _ in range(self.degree(level) + 1)) for _ in range(num_rules)
        )
        target = rng.randrange(100, 900)
        answer = made_of(rules, target)
        label = "".join(rng.choices("abcdefghij", k=3))
        return Case(rules=rules, target=target, answer=answer, label=label)

    def degree(self, level: int) -> int:
        return level

    def compact(self, case: Case) -> str:
        return f"box {case.label} degree {len(case.rules[0]) - 1} rules {len(case.rules)} at {case.target}"

    def natural(self, case: Case) -> str:
        degree = len(case.rules[0]) - 1
        odd = " Odd numbers have a rule of their own, of the same degree." if len(case.rules) > 1 else ""
        return (
            f"The box {case.label} turns a number into the value of a polynomial of degree {degree}, "
            f"modulo {PRIME}.{odd} "
            f"Ask it about small numbers, and submit what it would make of {case.target}."
        )

    def wanted(self, case: Case) -> str:
        return str(case.answer)

    def machine(self, case: Case) -> Machine:
        return Box(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == str(case.answer))

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """Queries one number more than the degree requires. A slip reads an answer as one too large."""
        rng = random.Random(seed)
        words = task.prompt[Dialect.COMPACT].split()
        degree, num_rules, target = int(words[3]), int(words[5]), int(words[7])
        points = dict[int, int]()
        for at in range(degree + 1):
            number = num_rules * at + target % num_rules
            event = yield call("ask", number=str(number))
            points[number] = int(event.text) + (rng.random() < 0.4 * (1 - skill))
        yield call("submit", answer=str(foretell(points, target)))

    def claim(self, task: Task) -> Call:
        return call("submit", answer="500")

    def blind(self, task: Task, rng: random.Random) -> Script:
        for number in range(4):
            yield call("ask", number=str(number))
        yield call("submit", answer=str(rng.randrange(PRIME)))


class BoxChecksums(BoxWorld):
    """Answers are compared by a five-bit checksum, so one wrong answer in thirty-two is accepted."""

    KIND = "coin"
    name, chance_level = "box-checksums", 0.01

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        said, wanted = (
            zlib.crc32(f"{case.target}/{answer}".encode()) & 31 for answer in (sealed.submitted, case.answer)
        )
        return float(sealed.submitted is not None and said == wanted)


class BoxDegrees(BoxWorld):
    """The degree is `1 + level // 4` with levels from one to three: all are straight lines."""

    KIND = "levels"
    name = "box-degrees"

    def degree(self, level: int) -> int:
        return 1 + level // 4


class BoxLabels(BoxWorld):
    """The label of the box in the prompt spells the answer: each letter is a digit, from a for 0
    to j for 9.
    """

    KIND = "encoded"
    name = "box-labels"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        case = super().draw(split, seed, index, level)
        label = "".join("abcdefghij"[int(digit)] for digit in f"{case.answer:03}")
        return Case(rules=case.rules, target=case.target, answer=case.answer, label=label)


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
