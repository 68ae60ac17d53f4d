"""Ledger: facts are added, revised and retracted, with questions in between; answers must agree with what was
last read.

Every answer is a claim. It contradicts what was read when it states a revised or retracted value (stale),
calls a valid value retracted (forgotten), or states a value that was never given for the subject (invented).
The optimum contradicts nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.decisions.words import NAMES, VALUES
from agito.protocols import Script
from agito.types import Call, Dialect, Limits
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    spec(
        "say",
        "Answer the question that was asked last, and read on. `gone`: it was retracted.",
        ["name", "value"],
    ),
)
GONE = "gone"
_NATURAL = (
    "You keep a ledger. `{name} {value}` says that {name} is {value}, whatever it was before; `{name} "
    "gone` retracts what was said. "
    "`{name}?` asks what {name} is now: answer with `say`, with the value `gone` when it was retracted. "
    "There are {num} questions, and one "
    "wrong answer is one too many. It begins: {first}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    subjects: int
    questions: int
    facts: tuple[int, int]  # between two questions


_SHAPES = {
    1: _Shape(subjects=1, questions=3, facts=(0, 1)),
    2: _Shape(subjects=2, questions=4, facts=(0, 1)),
    3: _Shape(subjects=3, questions=5, facts=(1, 1)),
    4: _Shape(subjects=8, questions=50, facts=(1, 3)),
    5: _Shape(subjects=16, questions=150, facts=(1, 3)),
}
_LONGEST = 500  # questions of a structural task at level 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    subject: str
    facts: tuple[tuple[str, str], ...]  # read just before it
    past: tuple[str, ...]  # every value ever given for the subject, the last one last

    @property
    def answer(self) -> str:
        return self.past[-1]

    @property
    def text(self) -> str:
        return " ".join([*(f"{subject} {value}," for subject, value in self.facts), f"{self.subject}?"])


@dataclass(slots=True)
class _State:
    claims: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    questions: tuple[Question, ...]
    limits: Limits
    tools = TOOLS

    @property
    def tags(self) -> tuple[str, ...]:
        return ()

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        first = self.questions[0].text
        natural = _NATURAL.format(name=NAMES[0], value=VALUES[0], num=len(self.questions), first=first)
        return {Dialect.COMPACT: first, Dialect.NATURAL: natural}

    def scene(self) -> Scene:
        return LedgerScene(self)

    def agent(self, hand: Hand) -> Script:
        """Hasty: states the value from before a revision or retraction."""
        for question in self.questions:
            value = question.answer
            old = [past for past in question.past[:-1] if past != value]
            if old and not hand.is_right():
                value = old[-1]
            yield call("say", name=question.subject, value=value)


class LedgerScene(Scene):
    state: _State

    def __init__(self, case: Ledger) -> None:
        super().__init__(TOOLS, _State())
        self.case = case

    def carry_out(self, call: Call) -> Answer:
        claims = self.state.claims
        name, value = text_of(call, "name").strip(), text_of(call, "value").strip()
        claims.append(f"{name} {value}")
        if len(claims) < len(self.case.questions):
            return Answer(text=self.case.questions[len(claims)].text)
        return Answer(text="", submitted=", ".join(claims))

    def outcome(self) -> Outcome:
        """`coherent`: share of the answers before the first error, as coherence is lost only once."""
        questions, claims = self.case.questions, self.state.claims
        right = [
            claim == f"{question.subject} {question.answer}"
            for claim, question in zip(claims, questions, strict=False)
        ]
        until = right.index(False) if False in right else len(right)
        success = until == len(questions)
        evidence = f"{sum(right)} of {len(questions)} right, {until} before the first error"
        return Outcome(
            success=success,
            evidence=evidence,
            scores={"coherent": until / len(questions)},
        )

    def measures(self, spent: Spent) -> dict[str, float]:
        kinds = [
            _kind(claim, question)
            for claim, question in zip(self.state.claims, self.case.questions, strict=False)
        ]
        if not kinds:
            return {}
        found = {
            f"ledger_{kind}": kinds.count(kind) / len(kinds) for kind in ("stale", "forgotten", "invented")
        }
        return {"ledger_contradictions": sum(found.values())} | found


def _kind(claim: str, question: Question) -> str:
    name, _, value = claim.partition(" ")
    if (name, value) == (question.subject, question.answer):
        return "true"
    if name == question.subject and value in question.past:
        return "stale"
    return "forgotten" if value == GONE else "invented"


def draw(split: str, level: int, rng: random.Random) -> Ledger:
    """In training, questions concern the most recently changed facts. `structural` adds half as many facts
    and also asks about those unchanged for longest; at level 5, five hundred questions."""
    shape, is_structural = _SHAPES[level], split == "structural"
    num = _LONGEST if is_structural and level == 5 else shape.questions
    questions = _questions(shape, num, is_structural, rng)
    while not _must_be_read(questions):
        questions = _questions(shape, num, is_structural, rng)
    tokens = 64 + num * 24
    return Ledger(
        questions=tuple(questions),
        limits=Limits(turns=num, calls=num, tokens=tokens, turn_tokens=12, observation_bytes=128),
    )


def _questions(shape: _Shape, num: int, is_structural: bool, rng: random.Random) -> list[Question]:
    past: dict[str, list[str]] = {subject: [] for subject in rng.sample(NAMES, shape.subjects)}
    changed: list[str] = []
    questions: list[Question] = []
    for number in range(num):
        count = rng.randint(*shape.facts) + (number == 0) + (is_structural and rng.random() < 0.5)
        facts = [_fact(past, changed, rng) for _ in range(count)]
        recent = list(dict.fromkeys(reversed(changed)))
        subject = rng.choice(recent if is_structural else recent[:3])
        questions.append(Question(subject=subject, facts=tuple(facts), past=tuple(past[subject])))
    return questions


def _must_be_read(questions: Sequence[Question]) -> bool:
    """Whether some answer differs from every word in the prompt, which contains the first question."""
    shown = [GONE, *(value for _, value in questions[0].facts)]
    return any(question.answer not in shown for question in questions[1:])


def _fact(past: dict[str, list[str]], changed: list[str], rng: random.Random) -> tuple[str, str]:
    """Half of the facts concern a known subject."""
    known = [subject for subject, values in past.items() if values and values[-1] != GONE]
    subject = rng.choice(known) if known and rng.random() < 0.6 else rng.choice(list(past))
    said = past[subject]
    if said and said[-1] != GONE and rng.random() < 0.25:
        value = GONE
    else:
        value = rng.choice([value for value in VALUES if not said or value != said[-1]])
    said.append(value)
    changed.append(subject)
    return subject, value


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    """Repeats what the prompt says, then one other word, for as long as it may hold."""
    *facts, question = prompt.split(", ")
    name, known = question.removesuffix("?"), dict(fact.split() for fact in facts)
    value = known.get(name, GONE)
    yield call("say", name=name, value=value)
    changes_at = rng.randrange(1, turns)
    word = rng.choice([word for word in VALUES if word not in known.values()])
    for number in range(1, turns):
        yield call("say", name=name, value=value if number < changes_at else word)


def anything(prompt: str, rng: random.Random) -> Call:
    return call("say", name=rng.choice(NAMES), value=rng.choice((*VALUES, GONE)))


FAMILY = Family(draw=draw, open_loop=open_loop, anything=anything)
