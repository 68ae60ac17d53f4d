"""A task may list its answer among other options, alike. What is marked out among them, or stands alone, is
given away: the contract says so, and the audit's gate `told` agrees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from agito.audit.leaked_answers import told_at_first
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.errors import InvalidArguments
from agito.grading.marked_answers import Posed
from agito.protocols import Control, Environment, Script, ScriptFactory
from agito.testing import EnvironmentContract, Violation
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    EpisodeArtifacts,
    Limits,
    Status,
    Target,
    Task,
    Verdict,
)
from agito.worlds.component import Answer, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

RULE = "test_nothing_of_the_target_stands_in_the_task"
MANY = [a + b + c + "a" for a in "bdfgklmn" for b in "aeiou" for c in "bdglmn"]
FEW = ("amber", "black", "coral", "denim", "ebony", "frost", "green", "hazel")
Written = Callable[[random.Random], tuple[str, str]]


class Guarded(Machine):
    """Says whether a thing is the one."""

    name, tools = "guard", (spec("ask", "Is it this one?", ["thing"]),)

    def step(self, call: Call) -> Answer:
        if not text_of(call, "thing"):
            raise InvalidArguments("ask about a thing")
        return Answer(text="yes" if text_of(call, "thing") == self.state else "no")


class Guess(ProceduralEnvironment):
    """`written` draws the prompt and the answer."""

    name, version, chance_level = "guess", "1", 0.34
    families, levels = ("all",), (1,)

    def __init__(self, written: Written) -> None:
        self.written = written

    def draw(self, place: Place) -> tuple[Task, Target]:
        text, answer = self.written(random.Random(place.seed))
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt=dict.fromkeys(Dialect, text),
            tools=(*Guarded.tools, SUBMIT),
            limits=Limits(turns=9, calls=9),
        )
        return task, Target(task_id=task.id, seed=place.seed, data={"answer": answer})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [Guarded(str(target.data["answer"]))], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = float(sealed.submitted == target.data["answer"])
        return Verdict(status=Status.SCORED, reward=reward, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> tuple[ScriptFactory, ...]:
        def script() -> Script:
            yield Call(tool="ask", arguments={"thing": str(target.data["answer"])})
            yield Call(tool="submit", arguments={"answer": str(target.data["answer"])})

        return (script,)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return {}

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return self.solutions(task, target)[0]


def contract_of(written: Written) -> EnvironmentContract:
    class Suite(EnvironmentContract):
        async def make(self) -> Environment:
            return Guess(written)

    return Suite()


def posed_by(written: Written, num: int = 60) -> list[Posed]:
    drawn = [written(random.Random(seed)) for seed in range(num)]
    return [Posed(task=str(at), text=text, answers=frozenset({own})) for at, (text, own) in enumerate(drawn)]


def goods(rng: random.Random) -> tuple[str, str]:
    listed = rng.sample(MANY, rng.choice((3, 4, 5)))
    return f"Goods: {', '.join(listed)}. Submit the cheapest.", rng.choice(listed)


def numbers(rng: random.Random) -> tuple[str, str]:
    listed = [str(rng.randrange(10_000, 99_999)) for _ in range(3)]
    return f"One of the accounts {' '.join(listed)} is overdrawn; submit which.", rng.choice(listed)


def colours(rng: random.Random) -> tuple[str, str]:
    return f"Of which colour is it: {' or '.join(FEW)}?", rng.choice(FEW)


def pair(rng: random.Random) -> tuple[str, str]:
    two = rng.sample(MANY, 2)
    return f"Is {two[0]} heavier than {two[1]}? Submit the heavier one.", rng.choice(two)


def files(rng: random.Random) -> tuple[str, str]:
    listed = [f"src/{rng.choice(MANY)}_{rng.choice(MANY)}.py" for _ in range(4)]
    return "Which file is broken?\n" + "\n".join(f"- {each}" for each in listed), rng.choice(listed)


def people(rng: random.Random) -> tuple[str, str]:
    listed = [f"{rng.choice(MANY).title()} {rng.choice(MANY).title()}" for _ in range(3)]
    return f"Present are {', '.join(listed)}. Who did it?", rng.choice(listed)


def yes_or_no(rng: random.Random) -> tuple[str, str]:
    return f"Is {rng.choice(MANY)} at home? Submit yes or no.", rng.choice(("yes", "no"))


def by_chance(rng: random.Random) -> tuple[str, str]:
    return f"Begin at {rng.choice(FEW)}.", rng.choice(FEW)


HONEST = (goods, numbers, colours, pair, files, people, yes_or_no, by_chance)


@pytest.mark.parametrize("written", HONEST, ids=lambda each: each.__name__)
def test_an_answer_among_options_that_are_listed_alike_is_no_leak(written: Written) -> None:
    getattr(contract_of(written), RULE)()
    assert told_at_first(posed_by(written), 0.34) is None


def only_it(rng: random.Random) -> tuple[str, str]:
    answer = rng.choice(FEW)
    return f"Ask about the {rng.choice(MANY)} of {answer}. Submit its colour.", answer


def never_answers(rng: random.Random) -> tuple[str, str]:
    listed = [rng.choice(MANY), *rng.sample(("pata", "rosu", "tiwe", "vemo"), 2)]
    answer = listed[0]
    rng.shuffle(listed)
    return f"Goods: {', '.join(listed)}. Submit the cheapest.", answer


def first_of_all(rng: random.Random) -> tuple[str, str]:
    listed = rng.sample(MANY, 4)
    return f"Goods: {', '.join(listed)}. Submit the cheapest.", listed[0]


def starred(rng: random.Random) -> tuple[str, str]:
    text, answer = goods(rng)
    return text.replace(answer, f"*{answer}*"), answer


def hinted(rng: random.Random) -> tuple[str, str]:
    text, answer = goods(rng)
    return f"{text} (Hint: {answer})", answer


def twice(rng: random.Random) -> tuple[str, str]:
    text, answer = goods(rng)
    words = ["The shop is old.", "It sells much.", f"Some like {answer}.", "It is open."]
    rng.shuffle(words)
    return f"{text} {' '.join(words)}", answer


def odd_form(rng: random.Random) -> tuple[str, str]:
    listed = [str(rng.randrange(10_000, 99_999)), *rng.sample(MANY, 3)]
    answer = listed[0]
    rng.shuffle(listed)
    return f"One of {' '.join(listed)} is it.", answer


def lone_number(rng: random.Random) -> tuple[str, str]:
    answer = str(rng.randrange(10_000, 99_999))
    return f"Account {answer} is overdrawn; find out which.", answer


def now_and_then(rng: random.Random) -> tuple[str, str]:
    answer = str(rng.randrange(10_000, 99_999))
    return f"Which account is overdrawn?{f' ({answer})' if rng.random() < 0.3 else ''}", answer


LEAKS = (only_it, never_answers, first_of_all, starred, hinted, twice, odd_form, lone_number)


@pytest.mark.parametrize("written", [*LEAKS, now_and_then], ids=lambda each: each.__name__)
def test_an_answer_that_stands_alone_or_is_marked_out_is_refused_by_the_contract(written: Written) -> None:
    with pytest.raises(Violation, match="nothing of the target stands in the task"):
        getattr(contract_of(written), RULE)()


@pytest.mark.parametrize("written", LEAKS, ids=lambda each: each.__name__)
def test_the_audit_refuses_what_the_contract_refuses(written: Written) -> None:
    assert told_at_first(posed_by(written), 0.34) is not None
