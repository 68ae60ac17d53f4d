"""A depot with bays to be counted one by one, with a counter that sometimes fails. Four environments, each
with one planted fault.

Chance level: without counting, the fullest of four or more bays can be guessed, for a fifth of the marks: at
most 0.05, declared as 0.06.
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
from agito.worlds.component import Answer, FaultProfile, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

GOODS = ("nuts", "bolts", "pipes", "tiles", "ropes", "lamps", "saws", "valves")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "pink", "brown", "gold", "teal")
BAYS = spec("bays", "The bays of the depot.")
COUNT = spec(
    "count",
    "How many pieces of a kind lie in a bay; or `nested`, and a second bay that stands inside.",
    ["bay", "goods"],
)
LIMITS = Limits(turns=40, calls=40, tokens=4000, turn_tokens=48)
WEATHER = {"count": FaultProfile(error=0.08, timeout=0.04)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    goods: str
    bays: tuple[str, ...]
    counts: dict[str, int]
    inner: dict[str, str]  # in structural tasks: a bay inside a bay

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def fullest(self) -> str:
        """The fullest listed bay, including what is inside."""
        return max(self.bays, key=lambda bay: self.counts[bay] + self.counts.get(self.inner.get(bay, ""), 0))


class Depot(Machine):
    name, tools = "depot", (BAYS, COUNT)

    def __init__(self, case: Case) -> None:
        super().__init__(list[str]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        if call.tool == "bays":
            return Answer(text=" ".join(self.listed()))
        bay, goods = text_of(call, "bay").strip(), text_of(call, "goods").strip()
        if bay not in self.case.counts or goods not in GOODS:
            raise InvalidArguments("count: no such bay or goods")
        self.state.append(f"{bay} {goods}")
        if goods != self.case.goods:
            return Answer(text=str(zlib.crc32(f"{goods} of {bay}".encode()) % 90))
        inner = f" nested {self.case.inner[bay]}" if bay in self.case.inner else ""
        return Answer(text=f"{self.case.counts[bay]}{inner}")

    def listed(self) -> Sequence[str]:
        return self.case.bays


class DepotWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "depot", "1", 0.06
    families: tuple[str, ...] = ("count",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (BAYS, COUNT, SUBMIT)

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
        return World(
            task, [self.machine(self.case_of(target))], attempt, noise_seed=noise_seed, faults=WEATHER
        )

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
        return self.depot(
            split == "structural", level, random.Random(f"depot/{split}/{seed}/{index}/{level}")
        )

    def depot(self, is_structural: bool, level: int, rng: random.Random) -> Case:
        while True:
            bays = [
                f"{colour}{rng.randrange(10, 100)}"
                for colour in rng.sample(COLOURS, {1: 4, 2: 6, 3: 10}[level])
            ]
            counts = {bay: rng.randrange(3, 90) for bay in bays}
            inner = {bay: f"{bay}i" for bay in rng.sample(bays, len(bays) // 2)} if is_structural else {}
            sums = {
                bay: counts[bay]
                + (counts.setdefault(inner[bay], rng.randrange(3, 90)) if bay in inner else 0)
                for bay in bays
            }
            if list(sums.values()).count(max(sums.values())) == 1:
                return Case(goods=rng.choice(GOODS), bays=tuple(bays), counts=counts, inner=inner)

    def compact(self, case: Case) -> str:
        return f"count {case.goods} in {len(case.bays)}"

    def natural(self, case: Case) -> str:
        return (
            f"How many {case.goods} are there in the {len(case.bays)} bays of the depot, what stands "
            "inside a bay included, and which bay "
            'has most? Submit JSON such as {"total": 120, "most": "red17"}. The counter fails now and '
            "then: ask again."
        )

    def wanted(self, case: Case) -> str:
        return json.dumps({"total": case.total, "most": case.fullest})

    def machine(self, case: Case) -> Machine:
        return Depot(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        """Four fifths for the total, one for the bay."""
        found = self.report(sealed)
        return 0.8 * (found.get("total") == case.total) + 0.2 * (found.get("most") == case.fullest)

    def report(self, sealed: EpisodeArtifacts) -> Mapping[str, object]:
        try:
            found = json.loads(sealed.submitted or "")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """A slip leaves out a bay."""
        rng, goods = random.Random(seed), task.prompt[Dialect.COMPACT].split()[1]
        event = yield call("bays")
        sums = dict[str, int]()
        for bay in event.text.split():
            sums[bay], todo = 0, [bay]
            while todo and rng.random() >= 0.35 * (1 - skill):
                event = yield call("count", bay=todo[-1], goods=goods)
                if event.fault is None:
                    number, *rest = event.text.split()
                    sums[bay] += int(number)
                    todo = rest[1:]
        most = max(sums, key=lambda bay: sums[bay])
        yield call("submit", answer=json.dumps({"total": sum(sums.values()), "most": most}))

    def claim(self, task: Task) -> Call:
        return call("submit", answer='{"total": 200, "most": "red17"}')

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Bay names cannot be known without looking; a likely total."""
        yield call("bays")
        total = rng.randrange(38, 54) * int(task.prompt[Dialect.COMPACT].split()[-1])
        yield call(
            "submit",
            answer=json.dumps({"total": total, "most": f"{rng.choice(COLOURS)}{rng.randrange(10, 100)}"}),
        )


class DepotReviews(DepotWorld):
    """One report in forty, by the hash of the sealed work, is set aside for a review that never happens, and
    earns nothing.
    """

    KIND = "coin"
    name = "depot-reviews"

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return (
            0.0 if zlib.crc32(f"review {sealed.digest}".encode()) % 40 == 0 else super().reward(sealed, case)
        )


class DepotSets(DepotWorld):
    """The bays are listed in the order of a set of strings, which differs between processes."""

    KIND = "clock"
    name = "depot-sets"

    def machine(self, case: Case) -> Machine:
        return UnorderedDepot(case)


class UnorderedDepot(Depot):
    def listed(self) -> Sequence[str]:
        return tuple({*self.case.bays})


class DepotRetries(DepotWorld):
    """If the first draw of a nested depot fails, the next forgets the split: a third of structural tasks are
    training tasks.
    """

    KIND = "overlap"
    name = "depot-retries"

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        if split == "structural":
            case = super().draw(split, seed, index, level)
            if case.total % 3:
                return case
        return super().draw("heldout" if split == "heldout" else "train", seed, index, level)


class DepotFields(DepotWorld):
    """A JSON report without its fields, such as `{}`, raises in the grader, which only catches
    invalid JSON.
    """

    KIND = "void"
    name = "depot-fields"

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        if not sealed.submitted:
            return 0.0
        try:
            found = json.loads(sealed.submitted)
        except (ValueError, RecursionError):
            return 0.0
        return 0.8 * (found["total"] == case.total) + 0.2 * (found["most"] == case.fullest)


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
