"""An environment in one file, trained from Python: guess a hidden number with `ask` (higher or lower).

python examples/own_environment.py
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import agito
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.errors import InvalidArguments
from agito.protocols import Control, Script, ScriptFactory
from agito.record import Summary
from agito.types import AttemptId, Call, Dialect, EpisodeArtifacts, Limits, Status, Target, Task, Verdict
from agito.worlds.component import Answer, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World


class Hidden(Machine):
    """The world: one number, and a tool that compares with it."""

    name, tools = "hidden", (spec("ask", "Is the hidden number higher or lower?", ["number"]),)
    state: int

    def step(self, call: Call) -> Answer:
        guess = text_of(call, "number")
        if not (guess.isascii() and guess.isdigit() and len(guess) < 10):
            raise InvalidArguments("ask needs a whole number")  # the policy reads this
        if int(guess) == self.state:
            return Answer(text="equal")
        return Answer(text="higher" if int(guess) < self.state else "lower")


class HiddenNumber(ProceduralEnvironment):
    """Chance level: one guess among at least eight numbers."""

    name, version, chance_level = "hidden_number", "1", 0.125
    families, levels = ("bisect",), (1, 2)

    def draw(self, place: Place) -> tuple[Task, Target]:
        rng = random.Random(f"{place.seed}/{place.level}")
        least = place.level * (32 if place.split == "structural" else 8)
        # training: even sizes; held out: odd ones; structural: larger ones
        size = least + 2 * rng.randrange(4 * place.level) + (place.split == "heldout")
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt={
                Dialect.COMPACT: f"below {size}",
                Dialect.NATURAL: f"A whole number below {size} is hidden. Find it, then submit it.",
            },
            tools=(*Hidden.tools, SUBMIT),
            limits=Limits(turns=10, calls=10),
        )
        return task, Target(task_id=task.id, seed=place.seed, data={"hidden": rng.randrange(size)})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [Hidden(target.data["hidden"])], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        is_right = sealed.submitted == str(target.data["hidden"])
        evidence = f"the number was {target.data['hidden']}"  # for people, not for the policy
        return Verdict(status=Status.SCORED, reward=float(is_right), evidence=evidence, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: bisect(task, 1.0, 0),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        anything = random.Random(task.id).randrange(size_of(task))
        return {"zero": lambda: guess(0), "open_loop": lambda: guess(anything)}

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: bisect(task, skill, seed)


def bisect(task: Task, skill: float, seed: int) -> Script:
    """Halves the range; at each step it may stop early, less often the higher `skill` is."""
    rng, low, high = random.Random(seed), 0, size_of(task)
    while high - low > 1 and skill > 0 and rng.random() < 0.7 + 0.3 * skill:
        middle = roundest(low, high)
        event = yield Call(tool="ask", arguments={"number": str(middle)})
        halves = {"equal": (middle, middle + 1), "higher": (middle + 1, high), "lower": (low, middle)}
        low, high = halves[event.text]
    yield from guess(roundest(low, high))


def roundest(low: int, high: int) -> int:
    """Of the numbers from `low` to below `high`, the one that the highest power of two divides."""
    shift = max((low ^ (high - 1)).bit_length() - 1, 0)
    return (high - 1) >> shift << shift


def guess(number: int) -> Script:
    yield Call(tool="submit", arguments={"answer": str(number)})


def size_of(task: Task) -> int:
    return int(task.prompt[Dialect.COMPACT].split()[-1])


def main(
    out: Path = Path("runs/hidden_number"), overrides: Sequence[str] = (), admit_anyway: bool = False
) -> Summary:
    """Audits the environment (unless `admit_anyway`) and trains on it: a minute or two in all."""
    environment = f"{Path(__file__).absolute()}:HiddenNumber"
    return agito.train(
        "quickstart",
        overrides=[f"env.name={environment}", *overrides],
        out=out,
        admit_anyway=admit_anyway,
    )


if __name__ == "__main__":
    summary = main()
    print(f"success on held-out tasks: {summary.before.success:.2f} → {summary.after.success:.2f}")
