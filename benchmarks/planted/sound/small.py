"""Sound environments that resemble flawed ones: forms, files, a captured state, options, partial rewards;
trails of places with answers named in the prompt by chance, few tasks, faults and retries.
"""

import json
import random
from itertools import pairwise

from agito.envs.procedural import ProceduralEnvironment
from agito.errors import InvalidArguments
from agito.types import Call, Dialect, Fault, Limits, Status, Target, Task, Verdict
from agito.worlds.component import Answer, FaultProfile, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

COLORS = ("red", "blue", "green", "black", "white", "brown", "pink", "gold")
WORDS = (
    "river",
    "stone",
    "apple",
    "cloud",
    "window",
    "garden",
    "bridge",
    "candle",
    "forest",
    "harbor",
    "island",
    "jacket",
    "kitten",
    "ladder",
    "meadow",
    "needle",
    "orchid",
    "pepper",
    "quartz",
    "ribbon",
    "silver",
    "temple",
    "umbrella",
    "valley",
    "walnut",
    "yellow",
    "zephyr",
    "anchor",
    "butter",
    "copper",
    "dragon",
    "engine",
    "falcon",
    "guitar",
    "hammer",
    "icicle",
    "jungle",
    "kettle",
    "lantern",
    "marble",
)
DONE = "done"


class Room(Machine):
    """Passes calls to `answer(call, state)` of its environment."""

    name = "room"

    def __init__(self, state, env):
        super().__init__(state)
        self.env, self.tools = env, env.looks

    def step(self, call):
        return self.env.answer(call, self.state)

    async def capture(self):
        return self.env.captured(self.state)


class Base(ProceduralEnvironment):
    version, chance_level, families, levels = "1", 0.05, ("all",), (1, 2)
    looks = (spec("read", "Reads what is written in a place.", ["place"]),)
    limits = Limits(turns=12, calls=12)
    faults: dict = {}  # noqa: RUF012

    @property
    def name(self):
        return type(self).__name__.lower()

    def draw(self, rng, split, level, index):
        raise NotImplementedError

    def task(self, *, split, index, seed, family=None, level=None):
        level = level or self.levels[index % len(self.levels)]
        if split not in self.splits or (family or "all") not in self.families or level not in self.levels:
            raise ValueError(
                f"split={split!r} family={family!r} level={level}: there are {self.splits}, "
                f"{self.families}, {self.levels}"
            )
        data = self.draw(random.Random(f"{self.name}/{split}/{seed}/{index}/{level}"), split, level, index)
        prompt = {Dialect.COMPACT: data["ask"], Dialect.NATURAL: data.get("prompt", data["ask"])}
        task = Task(
            id=f"{self.name}-{split}-{level}-{seed}-{index}",
            env=self.name,
            split=split,
            family="all",
            level=level,
            prompt=prompt,
            tools=(*self.looks, SUBMIT),
            limits=self.limits,
        )
        return task, Target(task_id=task.id, seed=index, data=data)

    def answer(self, call, state):
        return Answer(
            text=state["places"].get(place := text_of(call, "place").strip(), f"nothing at {place[:20]!r}")
        )

    def captured(self, state):
        return {}

    async def open(self, task, target, attempt, *, noise_seed):
        return World(
            task,
            [Room(json.loads(json.dumps(target.data)), self)],
            attempt,
            noise_seed=noise_seed,
            faults=self.faults,
        )

    def reward(self, sealed, target):
        return float(sealed.submitted == target.data["answer"])

    async def grade(self, sealed, target, grade_seed):
        reward = self.reward(sealed, target)
        return Verdict(
            status=Status.SCORED, reward=reward, scores={"success": float(reward >= 1)}, grade_seed=grade_seed
        )

    def guess(self, task, rng):
        return rng.choice(WORDS)

    def solutions(self, task, target):
        return (lambda: self.script(task, 1.0, random.Random(0)),)

    def demonstrator(self, task, target, *, skill, seed):
        return lambda: self.script(task, skill, random.Random(seed))

    def negative_controls(self, task):
        rng = random.Random(task.id)
        return {"empty": lambda: say(""), "open_loop": lambda: say(self.guess(task, rng))}


def say(answer):
    yield use("submit", answer=answer)


def use(tool, **arguments):
    return Call(tool=tool, arguments=arguments)


def patiently(call):
    """The text of the answer, retrying faults."""
    event = yield call
    while event.fault in (Fault.TIMEOUT, Fault.TOOL):
        event = yield call
    return event.text


def follow(task, skill, rng, guess):
    """Follows the places; gives up and guesses with a probability that falls with `skill`."""
    place = task.prompt[Dialect.COMPACT].split()[-1]
    for _ in range(10):
        if rng.random() > 0.6 + 0.4 * skill:
            break
        said = yield from patiently(use("read", place=place))
        if said.startswith("answer "):
            yield use("submit", answer=said.removeprefix("answer "))
            return
        place = said.split()[-1]
    yield use("submit", answer=guess)


def trail(rng, split, level, answer, extra=0):
    """A chain of places with `level` links, and as many dead ends."""
    words = rng.sample(WORDS[:20] if split != "structural" else WORDS[20:], 2 * level + 3 + extra)
    chain, rest = words[: level + 1], words[level + 1 :]
    places = {place: f"see {after}" for place, after in pairwise(chain)} | {chain[-1]: f"answer {answer}"}
    return chain[0], places | dict.fromkeys(rest, "see nothing")


class Form(Base):
    """Four fields to fill in; each right one earns a quarter."""

    KIND = "sound"
    looks = (
        spec("read", "Reads a record.", ["place"]),
        spec("fill", "Fills in a field.", ["field", "value"]),
    )
    FIELDS = ("name", "town", "trade", "year")

    def draw(self, rng, split, level, index):
        values = {
            "name": rng.choice(WORDS),
            "town": rng.choice(WORDS),
            "trade": rng.choice(WORDS),
            "year": str(rng.randrange(1500, 1900)),
        }
        shift = level + (split == "structural")
        return {
            "ask": f"form {rng.choice(WORDS)} {shift}",
            "prompt": f"Fill in name, town, trade and year as the record {shift} says.",
            "places": {str(shift): " ".join(values.values())},
            "values": values,
            "filled": {},
        }

    def answer(self, call, state):
        if call.tool == "fill":
            field = text_of(call, "field")
            if field not in self.FIELDS:
                raise InvalidArguments(f"fill: the fields are {', '.join(self.FIELDS)}")
            state["filled"][field] = text_of(call, "value")
            return Answer(text="ok")
        return super().answer(call, state)

    def captured(self, state):
        return {"form.json": json.dumps(state["filled"], sort_keys=True).encode("utf-8", "replace")}

    def reward(self, sealed, target):
        filled = json.loads(sealed.files.get("form.json") or b"{}")
        return sum(filled.get(field) == value for field, value in target.data["values"].items()) / 4

    def script(self, task, skill, rng):
        said = yield from patiently(use("read", place=task.prompt[Dialect.COMPACT].split()[-1]))
        for field, value in zip(self.FIELDS, said.split(), strict=False):
            chance = 0.7 + 0.3 * skill - 0.3 * (task.level - 1) * (1 - skill)
            yield use("fill", field=field, value=value if rng.random() < chance else "unknown")
        yield use("submit", answer=DONE)


class SortedFile(Base):
    """The work is a file of sorted words, written by the agent and read by the grader."""

    KIND = "sound"
    chance_level = 0.0
    looks = (spec("read", "Reads a file.", ["place"]), spec("write", "Writes a file.", ["path", "text"]))

    def draw(self, rng, split, level, index):
        words = rng.sample(WORDS, 3 + 2 * level + (split == "structural"))
        return {
            "ask": "sort list.txt into sorted.txt",
            "places": {"list.txt": "\n".join(words)},
            "wanted": "\n".join(sorted(words)),
            "files": {},
        }

    def answer(self, call, state):
        if call.tool == "write":
            state["files"][text_of(call, "path")[:80]] = text_of(call, "text")
            return Answer(text="written")
        return super().answer(call, state)

    def captured(self, state):
        return {path: text.encode("utf-8", "replace") for path, text in sorted(state["files"].items())}

    def reward(self, sealed, target):
        return float(
            sealed.files.get("sorted.txt", b"").decode("utf-8", "replace").strip() == target.data["wanted"]
        )

    def script(self, task, skill, rng):
        words = (yield from patiently(use("read", place="list.txt"))).split()
        for at in range(len(words)):
            if rng.random() > 0.9 + 0.1 * skill:
                words[at] = words[at - 1]
        yield use("write", path="sorted.txt", text="\n".join(sorted(words)))
        yield use("submit", answer=DONE)


class Meter(Base):
    """One argument-free look shows a number below 1,000: tasks barely differ, but nothing can be
    memorised.
    """

    KIND = "sound"
    chance_level = 0.01
    levels = (1,)
    looks = (spec("read_meter", "Reads the meter."),)

    def draw(self, rng, split, level, index):
        value = str(rng.randrange(1000))
        return {
            "ask": "read the meter" if split != "structural" else "read the other meter",
            "value": value,
            "answer": value,
        }

    def answer(self, call, state):
        return Answer(text=f"it stands at {state['value']}")

    def guess(self, task, rng):
        return str(rng.randrange(1000))

    def script(self, task, skill, rng):
        said = yield use("read_meter")
        yield use("submit", answer=said.text.split()[-1] if rng.random() < 0.2 + 0.8 * skill else "0")


class Thermostat(Base):
    """A state is judged: a dial set to what a gauge shows; only the world writes the captured state."""

    KIND = "sound"
    chance_level = 0.1
    looks = (
        spec("read", "Reads a gauge.", ["place"]),
        spec("turn", "Turns the dial up or down by some steps.", {"steps": "integer"}),
    )

    def draw(self, rng, split, level, index):
        start, goal = rng.randrange(20), rng.randrange(40)
        gauge = rng.choice(WORDS[:10] if split != "structural" else WORDS[30:])
        return {
            "ask": f"gauge {gauge}",
            "dial": start,
            "goal": goal,
            "places": {gauge: f"dial {start} of {goal}"},
            "gauge": gauge,
            "level": level,
        }

    def answer(self, call, state):
        if call.tool == "turn":
            steps = call.arguments.get("steps")
            if not isinstance(steps, int) or isinstance(steps, bool) or abs(steps) > 100:
                raise InvalidArguments("turn needs a whole number of steps, at most 100")
            state["dial"] += steps
            return Answer(text=f"at {state['dial']}")
        return super().answer(call, state)

    def captured(self, state):
        return {
            "state": json.dumps({"dial": state["dial"], "is_right": state["dial"] == state["goal"]}).encode()
        }

    def reward(self, sealed, target):
        return float(json.loads(sealed.files["state"])["is_right"])

    def script(self, task, skill, rng):
        said = (yield from patiently(use("read", place=task.prompt[Dialect.COMPACT].split()[-1]))).split()
        at, goal = int(said[1]), int(said[3])
        for _ in range(task.level):
            step = (goal - at) // 2 if task.level == 2 else goal - at
            event = yield use("turn", steps=step + (0 if rng.random() < 0.7 + 0.3 * skill else 1))
            at = int(event.text.split()[-1])
        if task.level == 2:
            yield use("turn", steps=goal - at + (0 if rng.random() < 0.7 + 0.3 * skill else 1))
        yield use("submit", answer=DONE)


class Options(Base):
    """The prompt lists four options, one of them right; the documents say which."""

    KIND = "sound"
    chance_level = 0.25

    def draw(self, rng, split, level, index):
        options = rng.sample(WORDS, 4)
        answer = rng.choice(options)
        first, places = trail(rng, split, level, answer)
        listed = ", ".join(f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
        return {
            "ask": f"{' '.join(options)} from {first}",
            "prompt": f"Which of {listed}? Begin at {first}.",
            "places": places,
            "answer": answer,
        }

    def guess(self, task, rng):
        return rng.choice(task.prompt[Dialect.COMPACT].split()[:4])

    def script(self, task, skill, rng):
        return follow(task, skill, rng, self.guess(task, rng))


class Catalogue(Base):
    """A tool lists all candidates; the record of each says whether it is the right one."""

    KIND = "sound"
    chance_level = 0.2
    looks = (spec("list", "Lists the things."), spec("read", "Reads the record of a thing.", ["place"]))

    def draw(self, rng, split, level, index):
        things = rng.sample(WORDS, 4 + 2 * level + (split == "structural"))
        owner, answer = rng.choice(WORDS), rng.choice(things)
        rest = [word for word in WORDS if word != owner]
        places = {thing: f"owner {owner if thing == answer else rng.choice(rest)}" for thing in things}
        return {"ask": f"whose owner is {owner}", "places": places, "answer": answer}

    def answer(self, call, state):
        return Answer(text=" ".join(state["places"])) if call.tool == "list" else super().answer(call, state)

    def script(self, task, skill, rng):
        owner = task.prompt[Dialect.COMPACT].split()[-1]
        things = (yield use("list")).text.split()
        for thing in things:
            if rng.random() > 0.8 + 0.2 * skill:
                break
            if (yield from patiently(use("read", place=thing))) == f"owner {owner}":
                yield use("submit", answer=thing)
                return
        yield use("submit", answer="none")


class Arithmetic(Base):
    """One turn: the prompt holds everything, and the answer must be worked out."""

    KIND = "sound"
    chance_level = 0.02
    looks = ()
    limits = Limits(turns=1, calls=1)

    def draw(self, rng, split, level, index):
        a, b, c = (rng.randrange(2, 10 ** (level + 1)) for _ in range(3))
        sign = "*" if split == "structural" else "+"
        return {"ask": f"{a} {sign} {b} - {c}", "answer": str((a * b if sign == "*" else a + b) - c)}

    async def open(self, task, target, attempt, *, noise_seed):
        return World(task, [], attempt, noise_seed=noise_seed)

    def guess(self, task, rng):
        return str(rng.randrange(200))

    def script(self, task, skill, rng):
        a, sign, b, _, c = task.prompt[Dialect.COMPACT].split()
        whole = (int(a) * int(b) if sign == "*" else int(a) + int(b)) - int(c)
        slips = sum(rng.random() > 0.9 + 0.1 * skill for _ in range(2 * task.level))
        yield use("submit", answer=str(whole + slips))


class Trail(Base):
    """Plain: a trail of places with a word at its end."""

    KIND = "sound"

    def draw(self, rng, split, level, index):
        answer = rng.choice(WORDS)
        first, places = trail(rng, split, level, answer)
        return {"ask": f"from {first}", "places": places, "answer": answer}

    def script(self, task, skill, rng):
        return follow(task, skill, rng, rng.choice(WORDS))


class Faulty(Trail):
    """A third of the calls time out or fail, reported as such, at random."""

    KIND = "sound"
    faults = {"read": FaultProfile(timeout=0.2, error=0.13)}  # noqa: RUF012


class Tight(Trail):
    """Just enough calls for a run without mistakes."""

    KIND = "sound"
    limits = Limits(turns=4, calls=4)


class Digits(Trail):
    """One-digit answers, which occur in every prompt by chance."""

    KIND = "sound"
    chance_level = 0.1

    def draw(self, rng, split, level, index):
        answer = str(rng.randrange(10))
        first, places = trail(rng, split, level, answer)
        numbers = " ".join(str(rng.randrange(100)) for _ in range(6))
        return {
            "ask": f"{numbers} from {first}",
            "prompt": f"Files {numbers} are closed; begin at {first}, submit the digit.",
            "places": places,
            "answer": answer,
        }

    def guess(self, task, rng):
        return str(rng.randrange(10))

    def script(self, task, skill, rng):
        return follow(task, skill, rng, str(rng.randrange(10)))


class YesOrNo(Trail):
    """Yes-or-no answers, so half of the guesses are right, as declared."""

    KIND = "sound"
    chance_level = 0.5

    def draw(self, rng, split, level, index):
        answer = rng.choice(("yes", "no"))
        first, places = trail(rng, split, level, answer)
        return {"ask": f"yes or no, from {first}", "places": places, "answer": answer}

    def guess(self, task, rng):
        return rng.choice(("yes", "no"))

    def script(self, task, skill, rng):
        return follow(task, skill, rng, rng.choice(("yes", "no")))


class Verbose(Trail):
    """A page-long prompt that names every possible colour, in another order each time."""

    KIND = "sound"
    chance_level = 0.125

    def draw(self, rng, split, level, index):
        answer = rng.choice(COLORS)
        first, places = trail(rng, split, level, answer)
        order = rng.sample(COLORS, len(COLORS))
        rules = " ".join(
            f"The {rng.choice(WORDS)} by the {rng.choice(WORDS)} may be {color}, or it was in "
            f"{rng.randrange(1900, 2000)}."
            for color in order
        )
        return {
            "ask": f"{' '.join(order)} from {first}",
            "prompt": f"{rules} {rules.lower()} Begin at {first} and submit the colour.",
            "places": places,
            "answer": answer,
        }

    def guess(self, task, rng):
        return rng.choice(COLORS)

    def script(self, task, skill, rng):
        return follow(task, skill, rng, rng.choice(COLORS))


class LongAnswers(Trail):
    """A whole paragraph is to be submitted."""

    KIND = "sound"
    chance_level = 0.0

    def draw(self, rng, split, level, index):
        answer = " ".join(rng.choice(WORDS) for _ in range(60))
        first, places = trail(rng, split, level, answer)
        return {"ask": f"copy from {first}", "places": places, "answer": answer}


class FewTasks(Trail):
    """Only forty training tasks, twenty held-out and twenty structural ones, repeated."""

    KIND = "sound"

    def draw(self, rng, split, level, index):
        at = rng.randrange(20)
        return super().draw(random.Random(f"few/{split}/{level}/{at}"), split, level, index)


class ThreeTries(Trail):
    """Three submissions, each told if wrong. Three guesses among twelve are declared as the chance level."""

    KIND = "sound"
    chance_level = 0.25
    NAMES = WORDS[:12]
    looks = (
        *Base.looks,
        spec("submit", "Ends the episode when it is right, or at the third time.", ["answer"]),
    )

    def task(self, *, split, index, seed, family=None, level=None):
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        return Task(
            **{name: getattr(task, name) for name in task.__dataclass_fields__} | {"tools": self.looks}
        ), target

    def draw(self, rng, split, level, index):
        answer = rng.choice(self.NAMES)
        first, places = trail(rng, split, level, answer)
        return {"ask": f"from {first}", "places": places, "answer": answer, "tries": 3}

    def answer(self, call, state):
        if call.tool != "submit":
            return super().answer(call, state)
        said = text_of(call, "answer")
        state["tries"] -= 1
        return (
            Answer(text="", submitted=said)
            if said == state["answer"] or not state["tries"]
            else Answer(text="no")
        )

    def negative_controls(self, task):
        names = random.Random(task.id).sample(self.NAMES, 3)
        return {"empty": lambda: say(""), "open_loop": lambda: (use("submit", answer=name) for name in names)}

    def script(self, task, skill, rng):
        return follow(task, skill, rng, "unknown")


class Checked(Trail):
    """A tool checks an answer's form: it knows the list of all answers but not the right one."""

    KIND = "sound"
    looks = (*Trail.looks, spec("check", "Checks how an answer is written.", ["answer"]))

    def answer(self, call, state):
        if call.tool == "check":
            said = text_of(call, "answer")
            return Answer(
                text=f"{len(said)} letters, {'one' if said in WORDS or said in COLORS else 'none'} of the "
                "words"
            )
        return super().answer(call, state)

    def script(self, task, skill, rng):
        inner = super().script(task, skill, rng)
        call = next(inner)
        while call.tool != "submit":
            call = inner.send((yield call))
        yield use("check", answer=call.arguments["answer"])
        yield call


class OnlyFaultsDiffer(Trail):
    """Levels differ only in how often a tool fails, which the demonstrator notices."""

    KIND = "sound"

    async def open(self, task, target, attempt, *, noise_seed):
        faults = {"read": FaultProfile(error=0.05 if task.level == 1 else 0.45)}
        return World(
            task,
            [Room(json.loads(json.dumps(target.data)), self)],
            attempt,
            noise_seed=noise_seed,
            faults=faults,
        )

    def draw(self, rng, split, level, index):
        return super().draw(rng, split, 2, index)
