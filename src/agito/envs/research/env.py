"""The `research` environment: questions over generated worlds, answered with the deciding documents.

Chance level: a blind answer must name one of 72 words and exactly the deciding documents out of about 25 to
80, which succeeds less than once in a thousand. Taking the first hit at every step is never right, by
construction. Declared as 0.005.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agito.envs.procedural import Place, ProceduralEnvironment
from agito.envs.research import agents
from agito.envs.research.library import DATES, HITS, SHAPES, library, line
from agito.envs.research.question import FAMILIES, LEVELS, SPLITS, Question, question
from agito.protocols import Control, ScriptFactory
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Json, Limits, Status, Target, Task, Verdict
from agito.worlds.component import FaultProfile
from agito.worlds.search import OPEN, SEARCH, SearchEngine
from agito.worlds.world import SUBMIT, World

TOOLS = (SEARCH, OPEN, SUBMIT)
# Neighbouring tasks of a level share one world, whose index is built once; with many more questions per
# world, policies would memorise it.
_ASKED_PER_WORLD = 4
_LINE = 1 << 32  # distance between the worlds of one line
_NATURAL = (
    "A library holds short dated documents about people, places and works. `search` lists the documents "
    "that have all the words, by title "
    "and id; a title is a name and a relation (by, in, home, boss, lord, near), an id is a date (a letter, "
    "`a` the oldest) and a number. "
    "`open` shows what the document says: `is NAME`, or `rumor NAME`. Facts change: of the documents about "
    "one name and relation the one "
    "with the latest date{until} holds, and rumors never count. Begin with {start} and follow these "
    "relations one after the other: {path}. "
    "Submit the name that you arrive at, then the ids of the documents that decide, one for each relation "
    "and no others, separated by "
    "spaces. Tools can time out."
)


class ResearchEnvironment(ProceduralEnvironment):
    """Procedural questions; see `docs/environments/research.md`."""

    name = "research"
    version = "1"
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.005

    def draw(self, place: Place) -> tuple[Task, Target]:
        split, seed, family, level = place.split, place.run_seed, place.family, place.level
        rng = random.Random(f"research/{split}/{seed}/{place.index}/{family}/{level}")
        number, asked = place.index // _ASKED_PER_WORLD, None
        # Some worlds have no fair question of a kind; then take the next world of the line.
        while asked is None:
            asked = question(
                library(split, seed, level, number), split=split, family=family, level=level, rng=rng
            )
            number += _LINE if asked is None else 0
        task = Task(
            id=place.id,
            env=self.name,
            split=split,
            family=family,
            level=level,
            prompt={Dialect.COMPACT: asked.text, Dialect.NATURAL: _natural(asked)},
            tools=TOOLS,
            limits=(limits := _limits(level)),
            natural_limits=replace(limits, tokens=640 + 96 * limits.turns, turn_tokens=64),
            tags=(f"hops-{len(asked.path)}",),
        )
        data: dict[str, Json] = {
            "world": [split, seed, level, number],
            "answer": asked.answer,
            "evidence": list(asked.evidence),
            "question": asked.text,
        }
        return task, Target(task_id=task.id, seed=place.seed, data=data)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        world = target.data["world"]
        assert isinstance(world, list)
        split, seed, level, number = world
        assert (
            isinstance(split, str)
            and isinstance(seed, int)
            and isinstance(level, int)
            and isinstance(number, int)
        )
        engine = SearchEngine(
            library(split, seed, level, number).corpus, limit=HITS, all_words=True, line=line
        )
        faults = FaultProfile(timeout=SHAPES[level].timeout)
        return World(
            task, [engine], attempt, noise_seed=noise_seed, faults={"search": faults, "open": faults}
        )

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Full marks for the right answer with exactly the deciding documents, in any order; nothing
        otherwise."""
        evidence = target.data["evidence"]
        assert isinstance(evidence, list)
        answer, *cited = (sealed.submitted or "").split() or [""]
        is_right, is_cited = answer == target.data["answer"], sorted(cited) == sorted(map(str, evidence))
        reward = float(is_right and is_cited)
        wanted = " ".join((str(target.data["answer"]), *map(str, evidence)))
        return Verdict(
            status=Status.SCORED,
            reward=reward,
            scores={"success": reward, "answer": float(is_right), "evidence": float(is_cited)},
            evidence=f"submitted {sealed.submitted!r}, wanted {wanted!r}",
            grade_seed=grade_seed,
        )

    def answers(self, task: Task, target: Target) -> Sequence[str]:
        """The whole answer with its evidence, which no document contains by itself."""
        evidence = target.data["evidence"]
        assert isinstance(evidence, list)
        return (" ".join((str(target.data["answer"]), *map(str, evidence))),)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (agents.solver(task.prompt[Dialect.COMPACT]),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return agents.negative_controls(task.prompt[Dialect.COMPACT], zlib.crc32(task.id.encode()))

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return agents.demonstrator(task.prompt[Dialect.COMPACT], skill=skill, seed=seed)


def _natural(asked: Question) -> str:
    until = "" if asked.text.startswith("now") else f" not after {DATES[asked.date]}"
    return _NATURAL.format(until=until, start=asked.start, path=", ".join(asked.path))


def _limits(level: int) -> Limits:
    shape = SHAPES[level]
    return Limits(
        turns=shape.turns, calls=shape.turns, tokens=shape.tokens, turn_tokens=24, observation_bytes=300
    )
