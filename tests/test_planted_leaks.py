"""A policy that thinks where it is not asked to pays as for thinking, through the harness and the world."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.credit.test_prices import thinking

from agito.envs.thinking import ThinkingEnvironment
from agito.harness import SoloHarness
from agito.harness.solo import solo
from agito.learning.effort import EffortSection
from agito.learning.leaks import leaked
from agito.protocols import Row, Sampled, SampleRequest
from agito.render import learn, renderer
from agito.render.effort import Blocks
from agito.rollout import AttemptRunner, Plan
from agito.types import AttemptId, Call, Dialect, Effort, FinishReason, Json, Thinking, Trajectory, span

pytestmark = pytest.mark.anyio
WORDS = "kol let mak kev find read page submit room name arguments kol let mak"
VOCABULARY = learn(
    [f"{WORDS} {at} I look at the next page first." for at in range(60)], size=420, asks_effort=True
)
THOUGHT = "kol let mak kev " * 5
ENVIRONMENT = ThinkingEnvironment()
TASK, TARGET = ENVIRONMENT.task(split="train", index=0, seed=0, level=1)


def asking(dialect: Dialect, effort: Effort = Effort.HIGH) -> Blocks:
    asked = renderer(dialect, VOCABULARY).asking(effort)  # type: ignore[attr-defined]
    assert isinstance(asked, Blocks)
    return asked


@dataclass(slots=True)
class Says:
    """An engine of one row, which says the planned turns."""

    turns: list[list[int]]
    context: int = 1 << 14
    rest: list[int] = field(default_factory=list[int])

    def open(self, seed: int) -> Row:
        return self

    async def sample(self, request: SampleRequest) -> Sampled:
        self.rest = self.rest or self.turns.pop(0)
        ids = self.rest[: request.max_tokens]
        stop = next((at for at, token in enumerate(ids) if token in request.stop_ids), len(ids) - 1)
        ids, self.rest = ids[: stop + 1], self.rest[stop + 1 :]
        is_end = ids[-1] in request.stop_ids
        return Sampled(
            ids=array("i", ids),
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if is_end else FinishReason.LENGTH,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError

    async def close(self) -> None:
        return


Plant = Callable[[Blocks], list[int]]


async def attempt(dialect: Dialect, plant: Plant, effort: Effort = Effort.HIGH) -> Trajectory:
    """The planted turn, then an honest answer."""
    asked = asking(dialect, effort)
    ended = asked.action([Call(tool="submit", arguments={"room": "kol"})], TASK.tools)
    engine = Says([plant(asked), [*ended]])
    runner = AttemptRunner(ENVIRONMENT, SoloHarness(), solo(renderer(dialect, VOCABULARY)), seed=0)
    plan = Plan(task=lambda _: (TASK, TARGET), thinking=lambda _: Thinking(effort=effort))
    found = await runner.run(plan, AttemptId(group=0, slot=0), {"main": engine})
    assert found.is_scored and found.trajectory.fault is None
    return found.trajectory


def acts(asked: Blocks, **arguments: Json) -> list[int]:
    """A turn that reads a page, after an empty thought."""
    return [*asked.action([Call(tool="read", arguments=arguments or {"page": 1})], TASK.tools)]


def encode(asked: Blocks, text: str) -> list[int]:
    return [*asked._encode(text)]  # pyright: ignore[reportPrivateUsage]


def in_block(asked: Blocks) -> list[int]:
    return [*encode(asked, THOUGHT), *acts(asked)]


def after_the_close(asked: Blocks) -> list[int]:
    at = len(asked.closer) if asked.effort is not Effort.NONE else 0
    whole = acts(asked)
    return [*whole[:at], *encode(asked, THOUGHT), *whole[at:]]


def behind_the_call(asked: Blocks) -> list[int]:
    *whole, end = acts(asked)
    return [*whole, *encode(asked, THOUGHT), end]


def in_a_made_up_argument(asked: Blocks) -> list[int]:
    return acts(asked, page=1, because=THOUGHT)


def in_an_argument_of_another_type(asked: Blocks) -> list[int]:
    return acts(asked, page=THOUGHT)


def in_a_call_of_no_tool(asked: Blocks) -> list[int]:
    return [*asked.action([Call(tool="ponder", arguments={"about": THOUGHT})], TASK.tools)]


def in_a_turn_without_a_call(asked: Blocks) -> list[int]:
    return [*asked.closer, *encode(asked, THOUGHT), asked.stop_ids[0]]


def in_a_number(asked: Blocks) -> list[int]:
    """The world refuses the page, which the schema does not."""
    return acts(asked, page=int("123456789" * 9))


def in_a_second_block(asked: Blocks) -> list[int]:
    at = len(asked.closer)
    whole = acts(asked)
    return [*whole[:at], asked.reopeners[0], *encode(asked, THOUGHT), *asked.closer, *whole[at:]]


SECTION = EffortSection(settings=(Effort.HIGH,), speech_tokens=0)
EVERYWHERE = [
    after_the_close,
    behind_the_call,
    in_a_made_up_argument,
    in_an_argument_of_another_type,
    in_a_call_of_no_tool,
    in_a_turn_without_a_call,
    in_a_number,
    in_a_second_block,
]


@pytest.mark.parametrize("plant", EVERYWHERE, ids=lambda plant: plant.__name__)
async def test_a_thought_costs_no_less_wherever_it_stands(plant: Plant) -> None:
    inside = await attempt(Dialect.NATURAL, in_block)
    honest = await attempt(Dialect.NATURAL, acts)
    found = await attempt(Dialect.NATURAL, plant)
    num = len(encode(asking(Dialect.NATURAL), THOUGHT))
    assert SECTION.cost(inside) == SECTION.cost(honest) + num
    least = num if plant is not in_a_number else num / 2  # which has digits of its own
    assert SECTION.cost(found) >= SECTION.cost(honest) + least
    assert leaked(found) >= (least if plant is not in_a_second_block else 0) and leaked(honest) == 0
    assert leaked(inside) == 0


async def test_effort_none_is_not_free_either() -> None:
    honest = await attempt(Dialect.NATURAL, acts, Effort.NONE)
    found = await attempt(Dialect.NATURAL, after_the_close, Effort.NONE)
    assert sum(turn.num_thought for turn in found.turns) == 0
    num = len(encode(asking(Dialect.NATURAL), THOUGHT))
    assert SECTION.cost(found) >= SECTION.cost(honest) + num


async def test_in_the_compact_dialect_a_page_that_is_no_number_is_a_thought() -> None:
    """A turn there is all call, and the words of one with a parameter are its own."""

    def says(asked: Blocks) -> list[int]:
        return [*asked.closer, *encode(asked, f"read {THOUGHT}"), asked.stop_ids[0]]

    honest, found = await attempt(Dialect.COMPACT, acts), await attempt(Dialect.COMPACT, says)
    num = len(encode(asking(Dialect.COMPACT), THOUGHT))
    assert SECTION.cost(honest) == 2 * (SECTION.call_cost + SECTION.turn_cost)
    assert SECTION.cost(found) >= SECTION.cost(honest) + num


async def test_a_sentence_before_a_call_is_free_and_not_a_word_more() -> None:
    section = EffortSection(settings=(Effort.HIGH,), speech_tokens=16)

    def says(asked: Blocks, text: str) -> list[int]:
        whole = acts(asked)
        at = len(asked.closer)
        return [*whole[:at], *encode(asked, text), *whole[at:]]

    honest = await attempt(Dialect.NATURAL, acts)
    short = await attempt(Dialect.NATURAL, lambda asked: says(asked, "I look at the next page first."))
    assert leaked(short) > 0, "it is metered"
    assert section.cost(short) == section.cost(honest), "and has no price"
    longer = await attempt(Dialect.NATURAL, lambda asked: says(asked, "kol let mak kev " * 9))
    assert section.cost(longer) == section.cost(honest) + leaked(longer) - 16


async def test_whatever_calls_say_has_a_price_beyond_the_tokens_that_actions_are_given() -> None:
    """For an environment whose actions are known to be short: nothing that calls say is then a way out."""
    section = EffortSection(settings=(Effort.HIGH,), action_tokens=12)

    def submits(asked: Blocks) -> list[int]:
        return [*asked.action([Call(tool="submit", arguments={"room": THOUGHT})], TASK.tools)]

    found, honest = await attempt(Dialect.COMPACT, submits), await attempt(Dialect.COMPACT, acts)
    num = len(encode(asking(Dialect.COMPACT), THOUGHT))
    assert section.cost(honest) == SECTION.cost(honest)
    assert section.cost(found) >= SECTION.cost(found) + num - 12


def test_an_answer_that_ends_a_segment_and_calls_nothing_has_not_leaked() -> None:
    answer = thinking(Effort.HIGH, 3).trajectory
    turn, *_ = answer.turns
    said = replace(answer, turns=(replace(turn, num_leaked=99),))
    assert leaked(said) == 0
    spoke = replace(answer, turns=(replace(turn, num_leaked=99), turn))
    assert leaked(spoke) == 99
