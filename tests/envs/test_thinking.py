"""The environment whose difficulty is exact."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from agito.envs.decisions.scene import Hand, act_again, call
from agito.envs.thinking import RealisticThinkingEnvironment, ThinkingEnvironment
from agito.envs.thinking.chain import ERRAND_MOVES, MOVES, ROOMS, Chain, draw, draw_errand, walk
from agito.envs.thinking.words import REALISTIC, TERSE
from agito.protocols import Environment, Renderer, ThoughtfulCall
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.types import Call, Dialect, Effort


class TestThinkingEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return ThinkingEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["follow kol", "submit let"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


class TestRealisticThinkingEnvironment(EnvironmentContract):
    async def make(self) -> Environment:
        return RealisticThinkingEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(["a parcel is in the kitchen"], size=300)
        return [renderer(dialect, vocabulary) for dialect in Dialect]


ONE, TWO, *_ = MOVES
CASE = Chain(start=ROOMS[0], pages=((ONE, TWO), (TWO,)))


def reads(*pages: int) -> list[Call]:
    return [Call(tool="read", arguments={"page": page}) for page in pages]


def outcome(*calls: Call) -> bool:
    return act_again(CASE.scene(), [(each.tool, each.arguments) for each in calls]).outcome().success


def test_only_the_right_room_after_every_page_pays() -> None:
    room = MOVES[TWO][MOVES[TWO][MOVES[ONE][ROOMS[0]]]]
    assert outcome(*reads(1, 2), call("submit", room=room)) and outcome(
        *reads(2, 0, 1), call("submit", room=room)
    )
    assert not outcome(*reads(1), call("submit", room=room)), "a guess"
    assert not outcome(*reads(1, 2), call("submit", room=MOVES[TWO][room]))


@pytest.mark.parametrize("drawing", [draw, draw_errand])
def test_no_task_of_training_is_held_out_at_any_level(drawing: Callable[..., Chain]) -> None:
    for level in ThinkingEnvironment.levels:
        drawn = {
            split: {drawing(split, level, random.Random(f"{split}/{at}")).pages for at in range(300)}
            for split in ThinkingEnvironment.splits
        }
        assert not drawn["train"] & (drawn["heldout"] | drawn["structural"])


@pytest.mark.parametrize("level", ThinkingEnvironment.levels)
def test_an_errand_has_the_moves_that_its_prompt_tells_and_nowhere_says_its_end_but_by_chance(
    level: int,
) -> None:
    errands = [draw_errand("train", level, random.Random(at)) for at in range(400)]
    for each in errands:
        words = [word for page in each.pages for word in page]
        assert f"errand {each.num_moves} 6" == each.prompt[Dialect.COMPACT]
        assert each.num_moves == ERRAND_MOVES[level] == sum(word in MOVES for word in words)
        assert len(words) == 48 and sum(word in ROOMS for word in words) == 1
    assert {each.pages[0][0] for each in errands} == {*ROOMS}
    stays = sum(each.end == each.pages[0][0] for each in errands)
    assert stays == 400 if level == 1 else stays < 80


def test_every_move_leaves_no_room_in_its_place_and_no_two_commute() -> None:
    assert all(one != other for move in MOVES.values() for one, other in move.items())
    pairs = [(a, b) for a in MOVES for b in MOVES if a < b]
    assert all(any(walk(room, [a, b])[-1] != walk(room, [b, a])[-1] for room in ROOMS) for a, b in pairs)


@pytest.mark.parametrize(
    ("effort", "in_chain", "in_errand"),
    [(Effort.NONE, 0, 0), (Effort.LOW, 2, 4), (Effort.MEDIUM, 4, 8), (Effort.HIGH, 9, 17)],
)
@pytest.mark.parametrize(("family", "first", "pages"), [("chain", 1, 2), ("errand", 0, 6)])
def test_demonstrators_think_as_much_as_they_are_asked_to(
    family: str, first: int, pages: int, effort: Effort, in_chain: int, in_errand: int
) -> None:
    environment, words = ThinkingEnvironment(), in_chain if family == "chain" else in_errand
    task, target = environment.task(split="train", index=3, seed=0, family=family, level=2)
    script = environment.thinker(task, target, effort=effort, skill=1.0, seed=0)()
    calls = list(script)
    thoughts = [each.thinking.split() if isinstance(each, ThoughtfulCall) else [] for each in calls]
    assert [len(each) for each in thoughts] == [first * (words > 0), *[words] * pages]
    if words:
        assert thoughts[-1][-1] == calls[-1].arguments["room"]


def test_an_unskilled_demonstrator_takes_wrong_turns_and_notices_them() -> None:
    case = Chain(start=ROOMS[0], pages=((ONE, TWO, ONE, TWO),) * 4)
    wrong, total = 0, 0
    for seed in range(20):
        *_, last = case.thinker(Hand(0.5, random.Random(seed)), Effort.HIGH)
        assert isinstance(last, ThoughtfulCall)
        first, second = (half.split() for half in last.thinking.split("again"))
        assert second[-1] == last.arguments["room"], "the second walk counts"
        wrong, total = wrong + (first != second), total + 1
    assert 0 < wrong < total


@pytest.mark.parametrize(("family", "words"), [("chain", {0, 9}), ("errand", {0, 8})])
def test_at_auto_demonstrators_show_both_choices(family: str, words: set[int]) -> None:
    environment, shown = ThinkingEnvironment(), set[int]()
    task, target = environment.task(split="train", index=3, seed=0, family=family, level=2)
    for seed in range(20):
        script = environment.thinker(task, target, effort=Effort.AUTO, skill=1.0, seed=seed)()
        last = [*script][-1]
        shown.add(len(last.thinking.split()) if isinstance(last, ThoughtfulCall) else 0)
    assert words <= shown and max(shown) <= 2 * max(words)


@pytest.mark.parametrize("family", ThinkingEnvironment.families)
@pytest.mark.parametrize("effort", [Effort.NONE, Effort.LOW, Effort.MEDIUM, Effort.HIGH])
def test_realistic_words_tell_the_same_tasks_and_none_of_them_is_terse(family: str, effort: Effort) -> None:
    terse, realistic = ThinkingEnvironment(), RealisticThinkingEnvironment()
    for index in range(20):
        (task, target), (told, told_target) = (
            env.task(split="train", index=index, seed=0, family=family, level=3) for env in (terse, realistic)
        )
        assert told.id == task.id and told_target == target
        said, seen = list[str](), list[list[str]]()
        for env, of in ((terse, target), (realistic, told_target)):
            scene, script = env._of(of).scene(), env.thinker(task, of, effort=effort, skill=0.7, seed=index)
            calls = list(script())
            texts = [scene.step(each).text for each in calls]
            thoughts = [each.thinking if isinstance(each, ThoughtfulCall) else "" for each in calls]
            said.append(str(calls[-1].arguments["room"]))
            seen.append([*texts, *thoughts])
            assert scene.outcome().success == (said[-1] == env._of(of).end)
        assert said[1] == REALISTIC.of(said[0])
        spoken = {word.strip(".,`") for text in seen[1] for word in text.split()}
        asked = {*told.prompt[Dialect.NATURAL].split()}
        assert not (spoken | asked) & {*REALISTIC.shown}


def test_page_0_tells_every_move_of_every_room() -> None:
    for words in (TERSE, REALISTIC):
        table = replace(CASE, words=words).scene().step(*reads(0)).text
        assert all(
            f"{words.of(one)} to {words.of(other)}" in line
            for line, moves in zip(table.splitlines(), MOVES.values(), strict=True)
            for one, other in moves.items()
        )
