"""The realistic vocabulary puts the same tasks into other words: tasks, scripts, verdicts and floors are the
terse ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import product

import pytest

from agito.envs import load
from agito.envs.code import instance as code
from agito.envs.code.realistic import REALISTIC as CODE
from agito.envs.code.steps import Step
from agito.envs.code.words import TERSE as TERSE_CODE
from agito.envs.desk import realistic as desk
from agito.envs.desk.people import ADDRESS, ARTICLE, PERSON
from agito.envs.desk.people import CODE as ARTICLE_CODE
from agito.envs.desk.shop import SCHEMA
from agito.envs.desk.words import PLACES
from agito.envs.shell import instance as shell
from agito.envs.shell.realistic import REALISTIC as SHELL
from agito.envs.shell.words import TERSE as TERSE_SHELL
from agito.errors import BadRecipe
from agito.evaluation.saved_policy import Changes, Evaluation
from agito.protocols import Environment
from agito.recipe import read
from agito.runtime.recipe_check import fit
from agito.runtime.run_context import environment_of
from agito.testing.episodes import Played, play
from agito.types import AttemptId, Dialect, Target, Task
from agito.worlds.api import dump, image

SPOKEN = ("shell", "code", "desk", "thinking")
SPLITS = ("train", "heldout", "structural")
_NATURAL = "env.dialect=natural"
_ORDER = ("gor42", "fok", "gor", "open", 3, PLACES[1])


@pytest.fixture(scope="module", params=SPOKEN)
async def pair(
    request: pytest.FixtureRequest, anyio_backend: str
) -> AsyncGenerator[tuple[Environment, Environment]]:
    """An environment in terse words, and the same in realistic ones."""
    name = str(request.param)
    terse, realistic = load(name), load(f"{name}-realistic")
    yield terse, realistic
    await terse.aclose()
    await realistic.aclose()


def both(
    pair: tuple[Environment, Environment], split: str, index: int
) -> tuple[tuple[Task, Target], tuple[Task, Target]]:
    one, other = (each.task(split=split, index=index, seed=11) for each in pair)
    return one, other


def test_ids_cells_seeds_and_turns_are_the_same(
    pair: tuple[Environment, Environment],
) -> None:
    terse, realistic = pair
    assert (terse.families, terse.levels, terse.splits) == (
        realistic.families,
        realistic.levels,
        realistic.splits,
    )
    assert (terse.chance_level, terse.version) == (realistic.chance_level, realistic.version)
    for split, index in product(SPLITS, range(20)):
        (task, target), (other, other_target) = both(pair, split, index)
        assert (task.id, task.cell, task.split, task.tags, target.seed) == (
            other.id,
            other.cell,
            other.split,
            other.tags,
            other_target.seed,
        )
        assert (task.limits.turns, task.limits.calls) == (other.limits.turns, other.limits.calls)
        assert task.prompt != other.prompt


@pytest.mark.anyio
@pytest.mark.parametrize("split", SPLITS)
async def test_every_script_earns_the_same_by_the_same_calls(
    pair: tuple[Environment, Environment], split: str
) -> None:
    """Solvers, hasty demonstrators and impostors; faults come at the same calls."""

    async def played(environment: Environment, drawn: tuple[Task, Target], which: str) -> Played:
        task, target = drawn
        scripts = {
            "solver": environment.solutions(task, target)[0],
            "hasty": environment.demonstrator(task, target, skill=0.4, seed=index),
        } | dict(environment.negative_controls(task))
        return await play(
            environment, task, target, scripts[which], AttemptId(group=index, slot=0), noise_seed=3
        )

    terse, realistic = pair
    for index in range(8):
        drawn, other = both(pair, split, index)
        impostors = sorted({*terse.negative_controls(drawn[0])} - {"random"}) if not index else []
        for which in ("solver", "hasty", *impostors):
            one = await played(terse, drawn, which)
            two = await played(realistic, other, which)
            assert one.verdict.reward == two.verdict.reward, (drawn[0].id, which)
            assert [event.fault for event in one.events] == [event.fault for event in two.events]
            if which == "solver":
                assert one.verdict.reward == 1


def test_the_shells_files_and_rules_are_the_same_but_for_their_words() -> None:
    names = dict(zip(SHELL.keys, TERSE_SHELL.keys, strict=True)) | dict(
        zip(SHELL.values, TERSE_SHELL.values, strict=True)
    )
    for split, family, level, seed in product(SPLITS, shell.FAMILIES, shell.LEVELS, range(4)):
        terse = shell.generate(split=split, family=family, level=level, seed=seed)
        realistic = shell.generate(split=split, family=family, level=level, seed=seed, words=SHELL)
        for old, new in zip(terse.files.values(), realistic.files.values(), strict=True):
            assert [*old] == [_terse_line(line, names) for line in new]
        assert [(rule.key, rule.value, rule.same_as, rule.named) for rule in terse.rules] == [
            (names[rule.key], names[rule.value], names[rule.same_as] if rule.same_as else None, rule.named)
            for rule in realistic.rules
        ]
        assert (terse.salt, terse.missing, terse.timeout) == (
            realistic.salt,
            realistic.missing,
            realistic.timeout,
        )


def _terse_line(line: str, names: dict[str, str]) -> str:
    key = next(key for key in SHELL.keys if SHELL.value(line, key) is not None)
    value = SHELL.value(line, key) or ""
    target = SHELL.target(value)
    said = f"{names[key]}={TERSE_SHELL.pointer(names[target]) if target else names[value]}"
    return TERSE_SHELL.stale(said) if line.startswith("# ") else said


def test_the_coding_tasks_are_the_same_but_for_their_names() -> None:
    names = dict(zip(CODE.names, TERSE_CODE.names, strict=True)) | {"": ""}
    for split, family, level, seed in product(SPLITS, code.FAMILIES, code.LEVELS, range(4)):
        terse = code.generate(split=split, family=family, level=level, seed=seed)
        realistic = code.generate(split=split, family=family, level=level, seed=seed, words=CODE)
        assert terse.functions == {
            names[name]: tuple(_named(step, names) for step in steps)
            for name, steps in realistic.functions.items()
        }
        assert terse.visible == realistic.visible
        assert [fault.at for fault in terse.faults] == [fault.at for fault in realistic.faults]
        for name, steps in realistic.functions.items():
            found, wanted = CODE.read(realistic.source(name, realistic.faults))
            lines = [CODE.code(step) for step in steps]
            assert wanted == lines and [CODE.meaning(CODE.comment(step)) for step in steps] == lines
            assert len(found) == len(set(found))


def _named(step: Step, names: dict[str, str]) -> Step:
    return replace(step, call=names[step.call])


def test_the_desks_books_and_wanted_ends_are_the_very_same() -> None:
    terse, realistic = load("desk"), load("desk-realistic")
    for split, index in product(SPLITS, range(20)):
        (task, target), (other, other_target) = (
            each.task(split=split, index=index, seed=4) for each in (terse, realistic)
        )
        assert target == other_target
        assert desk.terse_prompt(other.prompt[Dialect.COMPACT]) == task.prompt[Dialect.COMPACT]


def test_no_realistic_name_can_be_taken_for_another() -> None:
    for words in (SHELL.keys, SHELL.values, CODE.names, [*ARTICLE.values()], [*ADDRESS.values()]):
        assert len(set(words)) == len(words)
        assert not [(one, other) for one in words for other in words if one != other and one in other]
    for words in (PERSON, ARTICLE, ARTICLE_CODE, ADDRESS):
        assert len({*words.values()}) == len(words)


@pytest.mark.anyio
async def test_the_desk_understands_an_address_written_in_another_way_and_no_terse_word() -> None:
    service = desk.shop(image(SCHEMA, {"customers": [("fok", "plain")], "orders": [_ORDER]}))

    def status(tool: str, **arguments: str) -> int:
        return service.request(tool, arguments, caller="agent", role="agent").status

    order, address = f"{ARTICLE_CODE['gor']}-42", ADDRESS[PLACES[0]]
    for said in (address, f" {address.upper()}. "):
        assert status("change_address", order_id=order, address=said) == 200
        (row,) = dump((await service.capture())["shop.sqlite"])["orders"].values()
        assert row["place"] == PLACES[0]
    assert status("get_order", order_id="gor42") == 404
    assert status("list_orders", email="fok", page="1") == 422


def test_a_recipe_says_realistic_and_loads_that_environment() -> None:
    recipe = read("desk", ("env.vocabulary=realistic", "env.dialect=natural"))
    assert recipe.env.names == ("desk-realistic",) and recipe.env.levels == (1, 2, 3)
    assert environment_of(recipe).name == "desk-realistic"
    assert fit(recipe).recipe.env.vocabulary == "realistic"
    assert read("desk").env.names == ("desk",) and read("smollm2-shell").env.names == ("shell",)
    mixed = read("smoke", ('env.mix=[{name="shell"}, {name="desk"}]', "env.vocabulary=realistic", _NATURAL))
    assert mixed.env.names == ("shell-realistic", "desk-realistic")
    assert environment_of(mixed).families[0] == "shell-realistic.find"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("env.vocabulary=fancy", "env.dialect=natural"), "'terse' or 'realistic'"),
        (("env.vocabulary=realistic",), "set env.dialect='natural'"),
        (("env.name=code-realistic",), "set env.dialect='natural'"),
    ],
)
def test_a_vocabulary_that_is_none_or_that_does_not_fit_is_refused(
    overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(BadRecipe, match=says):
        read("smoke", overrides)


def test_an_environment_without_realistic_words_says_which_have_them() -> None:
    with pytest.raises(
        BadRecipe, match="research has only terse words; there is shell, desk, code, thinking"
    ):
        fit(read("research", ("env.vocabulary=realistic", _NATURAL)))


def test_an_environment_named_for_an_evaluation_is_taken_as_named() -> None:
    learned = read("desk", ("env.vocabulary=realistic", _NATURAL))
    for named in ("desk", "desk-realistic", "shell"):
        assert Changes(env=named).applied_to(learned).env.names == (named,)
    assert Changes().applied_to(learned).env.names == ("desk-realistic",)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("env.vocabulary=realistic",), "shell-realistic"),
        (('env.mix=[{name="desk"}, {name="code"}]',), "desk + code"),
        (
            ('env.mix=[{name="desk"}, {name="code"}]', "env.vocabulary=realistic"),
            "desk-realistic + code-realistic",
        ),
        ((), "shell"),
    ],
)
def test_a_record_of_an_evaluation_names_what_was_measured(overrides: tuple[str, ...], name: str) -> None:
    recipe = read("smoke", (_NATURAL, *overrides))
    found = Evaluation.of(
        "it", recipe, environment_of(recipe), (), {}, split="test", temperature=1.0, began=0.0
    )
    assert found.to_json()["env"] == name == recipe.env.name_measured
