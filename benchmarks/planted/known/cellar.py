"""Planted faults in a world of things that resemble one another: following the links reveals the colour of
the last one.
"""

import base64
import codecs
import datetime as dt
import random
import zlib
from dataclasses import replace

from agito.errors import InvalidArguments
from agito.types import Call, Dialect, Fault, Limits, Status, Target, Task, Verdict
from agito.worlds.component import Answer, FaultProfile, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

COLORS = (
    "amber",
    "black",
    "coral",
    "denim",
    "ebony",
    "frost",
    "green",
    "hazel",
    "ivory",
    "jade",
    "khaki",
    "lemon",
)
THINGS = (
    "anvil",
    "barrel",
    "candle",
    "drum",
    "easel",
    "flask",
    "goblet",
    "hammer",
    "inkpot",
    "jug",
    "kettle",
    "ladle",
    "mirror",
    "needle",
    "organ",
    "pillow",
)
OTHERS = (
    "quill",
    "rope",
    "saddle",
    "table",
    "urn",
    "vase",
    "wheel",
    "yoke",
    "zither",
    "bell",
    "cask",
    "dial",
    "fan",
    "gong",
    "hinge",
    "lute",
)
NAMES = [
    f"{a}{b}"
    for a in ("An", "Be", "Ca", "Do", "El", "Fi", "Gi", "Ho", "Iv", "Ja")
    for b in ("na", "ro", "li", "ta", "mo", "su")
]
ASK = spec("ask", "Says what a thing is like, or of which colour it is.", ["thing"])


class Cellar(Machine):
    name, tools = "cellar", (ASK,)

    def __init__(self, data, env):
        super().__init__({"chain": list(data["chain"]), "color": data["color"], "asked": 0})
        self.env = env

    def step(self, call):
        thing = text_of(call, "thing").strip()
        if not thing.isalpha():
            raise InvalidArguments(self.env.complaint(self.state))
        self.state["asked"] += 1
        return Answer(text=self.env.say(self.state, thing))

    async def capture(self):
        return {}


class Base:
    version, chance_level = "1", 1 / 12
    families, levels, splits = ("likeness",), (1, 2, 3), ("train", "heldout", "structural")

    @property
    def name(self):
        return type(self).__name__.lower()

    def rng(self, split, seed, index, level):
        return random.Random(f"{split}/{seed}/{index}/{level}")

    def hops(self, level):
        return level

    def draw(self, rng, split, level):
        things = OTHERS if split == "structural" else THINGS
        return {
            "chain": rng.sample(things, self.hops(level) + 1),
            "color": rng.choice(COLORS),
            "lot": rng.randrange(10**6),
        }

    def task(self, *, split, index, seed, family=None, level=None):
        level = level or self.levels[index % len(self.levels)]
        if (
            split not in self.splits
            or (family or "likeness") not in self.families
            or level not in self.levels
        ):
            raise ValueError(
                f"split={split!r} family={family!r} level={level}: there are {self.splits}, "
                f"{self.families}, {self.levels}"
            )
        data = self.draw(self.rng(split, seed, index, level), split, level)
        first = data["chain"][0]
        prompt = {Dialect.COMPACT: f"lot {data['lot']} {first}", Dialect.NATURAL: self.prompt(data)}
        task = Task(
            id=f"{self.name}-{split}-{level}-{seed}-{index}",
            env=self.name,
            split=split,
            family="likeness",
            level=level,
            prompt=prompt,
            tools=self.tools(data),
            limits=Limits(turns=12, calls=12),
        )
        return task, Target(task_id=task.id, seed=index, data=data)

    def prompt(self, data):
        first = data["chain"][0]
        return (
            f"Lot {data['lot']}: of what colour is the {first}? Where a thing is like another one, ask "
            "about that one. Submit the colour."
        )

    def tools(self, data):
        return (ASK, SUBMIT)

    def complaint(self, state):
        return "ask needs the name of a thing"

    def say(self, state, thing):
        chain = state["chain"]
        if thing not in chain:
            return f"there is no {thing[:20]}"
        at = chain.index(thing)
        return f"like the {chain[at + 1]}" if at + 1 < len(chain) else f"it is {state['color']}"

    async def open(self, task, target, attempt, *, noise_seed):
        return World(
            task,
            [Cellar(target.data, self)],
            attempt,
            noise_seed=noise_seed,
            faults={"ask": FaultProfile(timeout=0.05)},
        )

    def is_right(self, sealed, key, grade_seed):
        return sealed.submitted == key.data["color"]

    async def grade(self, sealed, key, grade_seed):
        reward = float(self.is_right(sealed, key, grade_seed))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)

    def solutions(self, task, target):
        return (lambda: seek(task, 1.0, 0),)

    def negative_controls(self, task):
        rng = random.Random(task.id)
        return {"empty": lambda: say(""), "open_loop": lambda: say(rng.choice(COLORS))}

    def demonstrator(self, task, target, *, skill, seed):
        return lambda: seek(task, skill, seed)

    async def aclose(self):
        return


def say(answer):
    yield Call(tool="submit", arguments={"answer": answer})


def seek(task, skill, seed):
    rng, thing = random.Random(seed), task.prompt[Dialect.COMPACT].split()[2]
    for _ in range(10):
        if rng.random() > 0.7 + 0.3 * skill:
            break
        event = yield Call(tool="ask", arguments={"thing": thing})
        if event.fault is Fault.TIMEOUT:
            continue
        said = event.text.splitlines()[0].split()
        if said[0] == "it":
            yield Call(tool="submit", arguments={"answer": said[2]})
            return
        thing = said[2]
    yield Call(tool="submit", arguments={"answer": rng.choice(COLORS)})


class ToldByTools(Base):
    """The description of a tool names the colour."""

    KIND = "told"

    def tools(self, data):
        return (replace(ASK, description=f"{ASK.description} Most things here are {data['color']}."), SUBMIT)


class ToldByMistakes(Base):
    """The complaint about a bad argument names the colour."""

    KIND = "told"

    def complaint(self, state):
        return f"ask needs the name of a thing, such as one that is {state['color']}"


class CodedInPrompt(Base):
    """The lot's reference is the colour, reversed and in hex."""

    KIND = "encoded"

    def prompt(self, data):
        return super().prompt(data) + f" Reference {data['color'][::-1].encode().hex()}."


class CodedInReplies(Base):
    """Every reply carries the colour as a session mark, in rot13 and base64."""

    KIND = "encoded"

    def say(self, state, thing):
        mark = base64.b64encode(codecs.encode(state["color"], "rot13").encode()).decode()
        return super().say(state, thing) + f"\nsession {mark}"


class OftenJade(Base):
    """One colour is right in a third of the tasks."""

    KIND = "constant"

    def draw(self, rng, split, level):
        data = super().draw(rng, split, level)
        return data | {"color": "jade"} if rng.random() < 0.27 else data


class UnknownIsRight(Base):
    """Answering that the colour cannot be known is accepted."""

    KIND = "constant"

    def is_right(self, sealed, key, grade_seed):
        return sealed.submitted in (key.data["color"], "undetermined")


class SlipsOnSome(Base):
    """The right colour is rejected in about one task in eighty, by a hash of its name."""

    KIND = "coin"

    def is_right(self, sealed, key, grade_seed):
        return super().is_right(sealed, key, grade_seed) and zlib.crc32(key.task_id.encode()) % 80 != 0


class SlipsBySeed(Base):
    """The right colour is rejected for about one grade seed in seventy."""

    KIND = "coin"

    def is_right(self, sealed, key, grade_seed):
        return (
            super().is_right(sealed, key, grade_seed)
            and random.Random(f"{grade_seed}/{key.task_id}").random() > 1 / 70
        )


class ClosedOnSundays(Base):
    """Nothing is right on Sundays."""

    KIND = "clock"

    def is_right(self, sealed, key, grade_seed):
        return super().is_right(sealed, key, grade_seed) and dt.datetime.now(dt.UTC).weekday() != 6


class OrderOfSets(Base):
    """A missing thing is answered with the others, in set order."""

    KIND = "clock"

    def say(self, state, thing):
        said = super().say(state, thing)
        return said if thing in state["chain"] else said + "; there are " + " ".join({*state["chain"]})


class QuarterTrained(Base):
    """One held-out task in four is a training task from elsewhere in the stream."""

    KIND = "overlap"

    def rng(self, split, seed, index, level):
        return (
            super().rng("train", seed, index + 11, level)
            if split == "heldout" and index % 4 == 1
            else super().rng(split, seed, index, level)
        )


class Renumbered(Base):
    """The held-out tasks are the training tasks under other lot numbers."""

    KIND = "overlap"

    def rng(self, split, seed, index, level):
        return super().rng("train" if split == "heldout" else split, seed, index, level)

    def draw(self, rng, split, level):
        data = super().draw(rng, split, level)
        return data | {"lot": data["lot"] + (10**6 if split == "heldout" else 0)}


class SixLots(Base):
    """Every level has two tasks, told apart by the number of the lot."""

    KIND = "serial"

    def rng(self, split, seed, index, level):
        return super().rng(split, 0, index // 3 % 2, level)

    def task(self, *, split, index, seed, family=None, level=None):
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        number = {"train": 0, "heldout": 10**5, "structural": 2 * 10**5}[split] + seed * 1000 + index
        prompt = {
            dialect: text.replace(str(target.data["lot"]), str(number))
            for dialect, text in task.prompt.items()
        }
        return replace(task, prompt=prompt), replace(target, data={**target.data, "lot": number})


class DearAnn(Base):
    """Every level has three tasks, told apart by who asks."""

    KIND = "serial"

    def rng(self, split, seed, index, level):
        return super().rng(split, 0, index // 3 % 3, level)

    def prompt(self, data):
        return "{NAME} wants to know: of what colour is the {THING}? Submit it.".replace(
            "{THING}", data["chain"][0]
        )

    def task(self, *, split, index, seed, family=None, level=None):
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        name = random.Random(f"{split}/{seed}/{index}").choice(NAMES)
        return replace(
            task, prompt={dialect: text.replace("{NAME}", name) for dialect, text in task.prompt.items()}
        ), target


class HardestFirst(Base):
    """Level 1 has the longest chains."""

    KIND = "levels"

    def hops(self, level):
        return 6 - level


class TwoAndThree(Base):
    """Levels 2 and 3 have changed places."""

    KIND = "levels"

    def hops(self, level):
        return {1: 1, 2: 6, 3: 3}[level]


class OneInTwelve(Base):
    """In one task in twelve the wanted colour appears nowhere; the solution knows it."""

    KIND = "unreachable"

    def draw(self, rng, split, level):
        data = super().draw(rng, split, level)
        return data | {"wanted": "mauve" if rng.random() < 1 / 12 else data["color"]}

    def is_right(self, sealed, key, grade_seed):
        return sealed.submitted == key.data["wanted"]

    def solutions(self, task, target):
        return (lambda: say(target.data["wanted"]),)


class LostThings(Base):
    """In one task in ten a link is missing, and the solution skips it."""

    KIND = "unreachable"

    def draw(self, rng, split, level):
        return super().draw(rng, split, level) | {"lost": rng.random() < 0.1}

    async def open(self, task, target, attempt, *, noise_seed):
        data = target.data | (
            {"chain": [*target.data["chain"][:-1], "nothing"], "color": "unseen"}
            if target.data["lost"]
            else {}
        )
        return World(task, [Cellar(data, self)], attempt, noise_seed=noise_seed)

    def solutions(self, task, target):
        def script():
            yield Call(tool="ask", arguments={"thing": target.data["chain"][0]})
            yield Call(tool="submit", arguments={"answer": target.data["color"]})

        return (script,)


class ColorOfTheName(Base):
    """The colour follows from the first letter of the thing named in the prompt."""

    KIND = "open_loop"

    def draw(self, rng, split, level):
        data = super().draw(rng, split, level)
        return data | {"color": COLORS[ord(data["chain"][0][0]) % len(COLORS)]}


class ColorOfTheLot(Base):
    """In training and held-out tasks, the colour follows from the last digit of the lot in the prompt."""

    KIND = "open_loop"

    def draw(self, rng, split, level):
        data = super().draw(rng, split, level)
        lot = 10 * (data["lot"] // 10) + rng.randrange(10)
        return data | {"lot": lot, "color": COLORS[lot % 10] if split != "structural" else data["color"]}
