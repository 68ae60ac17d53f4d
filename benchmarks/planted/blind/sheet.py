"""A spreadsheet whose cells are read one at a time: what does a cell show? Three environments, each with one
planted fault.

Chance level: a value is one of hundreds of numbers, none more frequent than once in a hundred; declared as
0.02.
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

READ = spec("read", "What is written in one cell: a number or a formula.", ["cell"])
ROW = spec("row", "What is written in the cells of one row, from column A on.", ["row"])
LIMITS = Limits(turns=24, calls=24, tokens=4000, turn_tokens=48)
COLUMNS, NUM_ROWS = "ABCDEF", 6
OPERATORS = {"train": ("+", "*"), "heldout": ("+", "*"), "structural": ("-", "+", "max")}
TITLES = ("Budget", "Harvest", "Payroll", "Stock", "Tour", "Kitchen", "Fleet", "Grants", "Fuel", "Repairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    title: str
    cell: str
    cells: dict[str, str]
    shown: int


def value(cells: Mapping[str, str], cell: str) -> int:
    """The value of a cell. A formula is `=`, a cell, an operator, and a cell or number."""
    text = cells[cell]
    if not text.startswith("="):
        return int(text)
    one, operator, two = text[1:].split(" ")
    return apply(operator, value(cells, one), int(two) if two.isdigit() else value(cells, two))


def apply(operator: str, left: int, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right, "max": max(left, right)}[operator]


class Sheet(Machine):
    name, tools = "sheet", (READ, ROW)

    def __init__(self, case: Case) -> None:
        super().__init__(list[str]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        said = text_of(call, "cell" if call.tool == "read" else "row").strip().upper()
        cells = [said] if call.tool == "read" else [f"{column}{said}" for column in COLUMNS]
        if any(cell not in self.case.cells for cell in cells):
            raise InvalidArguments(f"cells are A1 to {COLUMNS[-1]}{NUM_ROWS}")
        self.state.append(said)
        return Answer(
            text="\n".join(self.line(cell) for cell in cells) if call.tool == "row" else self.case.cells[said]
        )

    def line(self, cell: str) -> str:
        return f"{cell} {self.case.cells[cell]}"


class SheetWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "sheet", "1", 0.02
    families: tuple[str, ...] = ("value",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (READ, ROW, SUBMIT)

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
        rng = random.Random(f"sheet/{split}/{seed}/{index}/{level}")
        return self.sheet(split, level, rng.choice(TITLES), rng)

    def sheet(self, split: str, level: int, title: str, rng: random.Random) -> Case:
        """The requested cell depends on two, four or seven formulas; the other cells are distractors."""
        names = rng.sample(
            [f"{column}{row}" for column in COLUMNS for row in range(1, NUM_ROWS + 1)],
            len(COLUMNS) * NUM_ROWS,
        )
        num_formulas = {1: 2, 2: 4, 3: 7}[level]
        cells = {name: str(rng.randrange(11, 400)) for name in names}
        for at in range(num_formulas):
            operator = rng.choice(OPERATORS[split])
            right = rng.choice(("2", "3")) if operator == "*" else names[num_formulas + 1 + at]
            cells[names[at]] = f"={names[at + 1]} {operator} {right}"
        for name in names[2 * num_formulas + 1 :: 3]:
            cells[name] = f"={names[0]} + {rng.randrange(2, 9)}"
        return Case(title=title, cell=names[0], cells=cells, shown=value(cells, names[0]))

    def compact(self, case: Case) -> str:
        return f"{case.title} {case.cell}"

    def natural(self, case: Case) -> str:
        return (
            f"The sheet `{case.title}` holds numbers and formulas such as `=B2 + C1`, `=B2 * 3` or `=B2 "
            "max C1`. Work out the number that "
            f"cell {case.cell} shows, and submit it."
        )

    def wanted(self, case: Case) -> str:
        return str(case.shown)

    def machine(self, case: Case) -> Machine:
        return Sheet(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == str(case.shown))

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """Reads the cells of the formula, recursively. A slip changes a result by ten."""
        rng = random.Random(seed)
        start = task.prompt[Dialect.COMPACT].split()[1]
        cells, todo, wrong = dict[str, str](), [start], 0
        while todo:
            event = yield call("read", cell=todo[-1])
            cells[todo.pop()] = event.text
            if event.text.startswith("="):
                one, _, two = event.text[1:].split(" ")
                todo += [one] if two.isdigit() else [two, one]
            wrong += rng.random() < 0.25 * (1 - skill)
        yield call("submit", answer=str(value(cells, start) + 10 * wrong))

    def claim(self, task: Task) -> Call:
        return call("submit", answer="600")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Reads the cell, and guesses a likely sum."""
        yield call("read", cell=task.prompt[Dialect.COMPACT].split()[1])
        yield call("submit", answer=str(rng.randrange(300, 900)))


class SheetCached(SheetWorld):
    """A row is printed as stored in the file, with the last computed value beside each formula."""

    KIND = "told"
    name = "sheet-cached"

    def machine(self, case: Case) -> Machine:
        return CachedSheet(case)


class CachedSheet(Sheet):
    def line(self, cell: str) -> str:
        text = super().line(cell)
        return f"{text} <{value(self.case.cells, cell)}>" if "=" in text else text


class SheetNearly(SheetWorld):
    """Near answers are rewarded so generously that one number earns a third of the marks or more."""

    KIND = "constant"
    name = "sheet-nearly"

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        said = sealed.submitted or ""
        if not (said.removeprefix("-").isdecimal() and said.isascii() and len(said) < 8):
            return 0.0
        return max(0.0, 1 - abs(int(said) - case.shown) / 2000)


class SheetTitles(SheetWorld):
    """Three sheets per level, whatever the seed: tasks differ only in the title and a note on who asks."""

    KIND = "serial"
    name = "sheet-titles"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        rng = random.Random(f"title/{split}/{seed}/{index}/{level}")
        title = f"{rng.choice(TITLES)}-{rng.randrange(1000, 10000)}"
        return self.sheet(split, level, title, random.Random(f"sheet/{split}/{level}/{rng.randrange(3)}"))


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
