"""The `desk` environment: customer service over an API, judged by the final state of the shop's books,
including damage.

Chance level: without seeing anything, an agent can try one order number of 90 after another for as long as
its turns last, with the more frequently right action, guessing the item where the prompt omits it: right in
.012 of the held-out tasks. Doing nothing is never right, since refusals must be recorded too. Declared as
0.015.
"""

from __future__ import annotations

import random
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

from agito.envs.desk import agents, realistic
from agito.envs.desk.case import FAMILIES, LEVELS, SHAPES, SPLITS, Case, case
from agito.envs.desk.shop import OPERATIONS, shop
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.protocols import Control, ScriptFactory
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Json, Limits, Target, Task, ToolSpec, Verdict
from agito.worlds.api import Operation, differences, dump
from agito.worlds.component import Component, FaultProfile
from agito.worlds.users import ASK, User
from agito.worlds.world import SUBMIT, World

TOOLS = (ASK, *(operation.tool for operation in OPERATIONS), SUBMIT)
_TOPICS = {"item": ("which", "item", "order", "what"), "place": ("where", "place", "address")}
_WISHES = {
    "refund": "wants to give an order back",
    "cancel": "wants to cancel an order",
    "move": "wants an order sent to another place",
}
_NATURAL = (
    "You are the clerk of a shop. The customer {customer} {wish}{item}. Customers leave things out, "
    "sometimes name the wrong item, and "
    "may change their mind: `ask` them which item it is, where to send it, and before you do anything "
    "whether they are sure; ask "
    "again until they say yes. Policy: an order is refunded only when it is `sent` and not more than "
    "{limit} days old; customers of rank "
    "`gold` get refunds at any age. An order is cancelled or moved only while it is `open`. What the "
    "policy forbids you "
    "`refuse` instead of doing it. Do exactly this one thing and change nothing else; then submit `done`. "
    "Tools can time out, and what timed out may have been done."
)


class DeskEnvironment(ProceduralEnvironment):
    """Procedural cases; see `docs/environments/desk.md`."""

    name = "desk"
    version = "1"
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.015
    operations: ClassVar[tuple[Operation, ...]] = OPERATIONS
    ask: ClassVar[ToolSpec] = ASK

    def draw(self, place: Place) -> tuple[Task, Target]:
        made = _made(place.split, place.run_seed, place.index, place.family, place.level)
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt={Dialect.COMPACT: made.text, Dialect.NATURAL: _natural(made)},
            tools=TOOLS,
            limits=(limits := _limits(place.level)),
            natural_limits=replace(limits, tokens=960 + 72 * limits.turns, turn_tokens=48),
        )
        data: dict[str, Json] = {
            "case": [place.split, place.run_seed, place.index, place.family, place.level],
            "items": list(made.items),
            "is_allowed": made.is_allowed,
        }
        return task, Target(task_id=task.id, seed=place.seed, data=data)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        made, shape = _case(target), SHAPES[task.level]
        reading = FaultProfile(timeout=shape.timeout)
        writing = FaultProfile(timeout=shape.timeout, lost=shape.lost)
        faults = {self.ask.name: reading} | {
            operation.tool.name: writing if operation.writes else reading for operation in self.operations
        }
        return World(task, self.components(made), attempt, noise_seed=noise_seed, faults=faults)

    def components(self, made: Case) -> list[Component]:
        return [User(made.mind(), _TOPICS), shop(made.books)]

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Full marks when the books are exactly as wanted: the right action taken and nothing else
        touched."""
        try:
            found = dump(sealed.files["shop.sqlite"])
        except (KeyError, sqlite3.Error) as error:
            return Verdict.void(f"the books cannot be read: {error!r}")
        wrong = differences(_case(target).wanted, found)
        reward = float(not wrong)
        evidence = "; ".join(map(str, wrong[:4])) or "the books as wanted"
        return Verdict.scored(reward, evidence=evidence, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (agents.solver(task.prompt[Dialect.COMPACT]),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return agents.negative_controls(
            task.prompt[Dialect.COMPACT], zlib.crc32(task.id.encode()), turns=task.limits.turns
        )

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return agents.demonstrator(task.prompt[Dialect.COMPACT], skill=skill, seed=seed)


class RealisticDeskEnvironment(DeskEnvironment):
    """The same cases in realistic words, for language models."""

    name, ids_begin_with = "desk-realistic", "desk"
    operations = realistic.REALISTIC_OPERATIONS
    ask = realistic.TOOLS["ask"]

    def draw(self, place: Place) -> tuple[Task, Target]:
        task, target = super().draw(place)
        made, turns = _case(target), task.limits.turns
        wide = replace(task.limits, tokens=1280 + 160 * turns, turn_tokens=96, observation_bytes=600)
        prompt = {Dialect.COMPACT: realistic.prompt(made.text), Dialect.NATURAL: realistic.prose(made)}
        tools = (*realistic.TOOLS.values(), SUBMIT)
        return replace(task, prompt=prompt, tools=tools, limits=wide, natural_limits=None), target

    def components(self, made: Case) -> list[Component]:
        return [realistic.Talker(made.mind()), realistic.shop(made.books)]

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return tuple(map(realistic.in_words, super().solutions(_terse(task), target)))

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return {
            name: realistic.in_words(script)
            for name, script in super().negative_controls(_terse(task)).items()
        }

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return realistic.in_words(super().demonstrator(_terse(task), target, skill=skill, seed=seed))


def _terse(task: Task) -> Task:
    """As the scripts know it."""
    compact = realistic.terse_prompt(task.prompt[Dialect.COMPACT])
    return replace(task, prompt={Dialect.COMPACT: compact})


@lru_cache(maxsize=512)
def _made(split: str, seed: int, index: int, family: str, level: int) -> Case:
    return case(
        split=split,
        family=family,
        level=level,
        rng=random.Random(f"desk/{split}/{seed}/{index}/{family}/{level}"),
    )


def _case(target: Target) -> Case:
    given = target.data["case"]
    assert isinstance(given, list)
    split, seed, index, family, level = given
    assert (
        isinstance(split, str)
        and isinstance(seed, int)
        and isinstance(index, int)
        and isinstance(family, str)
        and isinstance(level, int)
    )
    return _made(split, seed, index, family, level)


def _natural(made: Case) -> str:
    item = f": the {made.said[0]}" if made.said else ""
    return _NATURAL.format(customer=made.customer, wish=_WISHES[made.family], item=item, limit=made.limit)


def _limits(level: int) -> Limits:
    shape = SHAPES[level]
    return Limits(
        turns=shape.turns, calls=shape.turns, tokens=shape.tokens, turn_tokens=16, observation_bytes=300
    )
