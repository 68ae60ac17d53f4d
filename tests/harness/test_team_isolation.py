"""Only briefs and reports pass between the contexts of a team: canaries, and the meter of every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from tests.harness.test_team import ROOMY, Programs, play, say, spawn

from agito.harness import TeamHarness
from agito.harness.team import TeamRules
from agito.harness.team.harness import Course
from agito.harness.team.member import Member
from agito.types import Call, Dialect, Segment, Task, TokenSource, Trajectory

pytestmark = pytest.mark.anyio
EPISODES = 1000
RULES = TeamRules(roles=("root", "worker"), depth=2, breadth=4, has_notes=True)
LIMITS = replace(ROOMY, turns=60, calls=80, tokens=20_000, turn_tokens=4000)


@dataclass(slots=True)
class Written:
    """A random team, in which whatever is said or read for the first time carries a canary of its own."""

    rng: random.Random
    programs: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    may_read: dict[str, set[str]] = field(default_factory=dict[str, set[str]])  # canaries, by agent
    of_boxes: dict[str, str] = field(default_factory=dict[str, str])  # canary in the world, by box
    num: int = 0

    def canary(self, *readers: str) -> str:
        self.num += 1
        word = f"canary{self.num:04d}x"
        for reader in readers:
            self.may_read.setdefault(reader, set()).add(word)
        return word

    def agent(self, name: str, depth: int, parent: str = "") -> None:
        """Its turns: looks at boxes, keeps notes, hands out work, says what cannot be read, reports."""
        turns, self.may_read[name] = list[str](), self.may_read.get(name, set())
        for _ in range(self.rng.randint(1, 4)):
            match self.rng.choice(["open", "note", "notes", "spawn", "garbage", "strange"]):
                case "open":
                    box = self.canary(name)
                    self.of_boxes[box] = self.canary(name)
                    turns.append(say("open", box=box))
                case "note":
                    turns.append(say("note", text=self.canary(name)))
                case "notes":
                    turns.append(say("notes"))
                case "spawn" if depth < RULES.depth:
                    turns.append("\n".join(self.order(name, depth) for _ in range(self.rng.randint(1, 2))))
                case "strange":
                    odd = self.rng.choice(["\ud83d", "| | |", "\x00", '"}', "é" * 9])
                    turns.append(say("note", text=f"{odd}{self.canary(name)}"))
                case _:
                    turns.append(f"@@ {self.canary(name)}")
        if depth == 0:
            turns.insert(self.rng.randrange(len(turns) + 1), self.order(name, depth))
            turns.append(say("submit", box="0"))
        elif self.rng.random() < 0.8:
            turns.append(say("report", text=f"{self.rng.choice(['', ' | '])}{self.canary(name, parent)}"))
        self.programs[name] = turns

    def order(self, name: str, depth: int) -> str:
        briefs: list[str] = []
        for _ in range(self.rng.randint(1, 2)):
            child = f"{name}-{self.num}"
            briefs.append(f"look for {self.canary(name, child)} as {child}")
            self.agent(child, depth + 1, parent=name)
        return spawn(" | ".join(briefs), budget=self.rng.randint(1, 6))

    def answer(self, call: Call) -> str:
        return f"there is {self.of_boxes.get(str(call.arguments.get('box')), 'nothing')}"


def written(seed: int) -> Written:
    team = Written(random.Random(seed))
    team.agent("root", 0)
    return team


def canaries_read(trajectory: Trajectory, segment: Segment) -> set[str]:
    """Those in tokens that the agent did not say itself."""
    kinds = segment.tokens.kinds
    observed = [
        token if kinds[at] == TokenSource.OBSERVED and token < 256 else 32
        for at, token in enumerate(segment.tokens.ids)
    ]
    text = bytes(observed).decode("utf-8", "replace")
    return {word[:11] for word in text.replace("canary", " canary").split() if word.startswith("canary")}


def names(trajectory: Trajectory) -> dict[int, str]:
    """What every agent is called in its brief, by segment."""
    found = {0: "root"}
    for segment in trajectory.segments[1:]:
        assert segment.spawned_by is not None
        briefs = str(trajectory.events[segment.spawned_by].call.arguments["brief"]).split(" | ")
        found[segment.id] = briefs[int(segment.agent.rpartition(".")[2])].split()[-1]
    return found


async def crossings(harness: TeamHarness, seed: int) -> tuple[int, tuple[str, ...], int]:
    """Canaries read by agents that they were not meant for, what the meter says, and the number of agents."""
    team = written(seed)
    found, metered = await play(
        Programs(team.programs), answer=team.answer, rules=RULES, limits=LIMITS, harness=harness
    )
    assert found.fault is None, found.detail
    called = names(found)
    return (
        sum(
            len(canaries_read(found, segment) - team.may_read[called[segment.id]])
            for segment in found.segments
        ),
        metered,
        len(found.segments),
    )


async def test_no_canary_crosses_in_a_thousand_team_episodes_and_the_meter_stays_at_nought() -> None:
    harness, teams, crossed = TeamHarness(RULES), 0, 0
    for seed in range(EPISODES):
        here, metered, num = await crossings(harness, seed)
        crossed, teams = crossed + here, teams + (num > 1)
        assert metered == (), (seed, metered)
    assert crossed == 0
    assert teams == EPISODES


class _ShowsPrompt(Course):
    """What its parent began with reaches the child."""

    def told(self, parent: Member, role: str, brief: str, turns: int) -> Task:
        told = Course.told(self, parent, role, brief, turns)
        more = parent.brief or parent.task.prompt[Dialect.NATURAL]
        return replace(told, prompt={Dialect.NATURAL: f"{more} {told.prompt[Dialect.NATURAL]}"})


class _HandsBackContext(Course):
    """What the child read last reaches its parent."""

    def handed_back(self, child: Member) -> str:
        seen = child.agent.spec.renderer.text(child.capture.ids(len(child.capture)))
        return f"{Course.handed_back(self, child)} ({seen[-200:]})"


class _SharesNotes(Course):
    """Notes have one namespace."""

    def notes_of(self, member: Member) -> Sequence[str]:
        return [note for each in self.members for note in each.notes]


class _ShowsSiblings(Course):
    """A child's events are shown to the others of its round."""

    async def _act(self, member: Member) -> None:
        first = len(self.events)
        await Course._act(self, member)
        for other in self.members:
            if other is not member and other.depth == member.depth and not other.is_done:
                other.read(self.events[first:])


class _MixesResults(Course):
    """What the world told one agent is put behind what it tells the next."""

    async def _in_world(self, member: Member, calls: tuple[Call, ...]) -> list[int]:
        before = "".join(event.text for event in self.events if event.call.tool == "open")
        found = await Course._in_world(self, member, calls)
        for index in found:
            event = self.events[index]
            self.events[index] = replace(event, text=f"{event.text} {before[-40:]}")
        return found


@pytest.mark.parametrize(
    "course", [_ShowsPrompt, _HandsBackContext, _SharesNotes, _ShowsSiblings, _MixesResults]
)
async def test_the_canaries_and_the_meter_fire_on_a_harness_that_leaks_on_purpose(
    course: type[Course],
) -> None:
    class Leaky(TeamHarness):
        def new_course(self, task, session, agents, seed):
            return course(rules=self.rules, task=task, session=session, agents=agents, seed=seed)

    crossed, metered, unmetered = 0, 0, 0
    for seed in range(60):
        here, said, _ = await crossings(Leaky(RULES), seed)
        crossed, metered = crossed + (here > 0), metered + bool(said)
        unmetered += here > 0 and not said
    assert crossed >= 5 and metered >= crossed
    assert unmetered == 0, "whatever a canary shows, the meter shows"
