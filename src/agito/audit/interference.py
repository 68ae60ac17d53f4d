"""Tests whether one tool's use in an episode affects other episodes, one tool at a time, so that no tool
undoes another's effect.

A lock that is taken and given back within one episode leaves nothing behind. So every tool, and every command
word of a tool, gets an episode of its own, with arguments from solutions and the prompt. A recorded episode
is opened before it and continued after it, and replayed once more afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agito.audit.agents import ending, fill, prompt_of, strings, words_of
from agito.audit.card import Case
from agito.audit.episode import Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.literals import commands_of
from agito.audit.open_episodes import visits
from agito.types import Call, ToolSpec

_EPISODES, _LEAST, _WORDS = 8, 2, 30
_EVERY = 1 << 30  # number of digests: before the first call and after each

Difference = Callable[[Episode, Episode], str]


async def count_disturbed(
    runner: EpisodeRunner, episodes: Sequence[Episode], difference: Difference, cases: list[Case]
) -> tuple[int, int]:
    """How many of how many episodes differ after or beside such a one. `episodes` were recorded alone, with
    digests.
    """
    ends_at = time.monotonic() + runner.seconds_left / 3
    hits = num = 0
    for at, first in enumerate(_one_per_toolset(episodes)[: runner.depth.of(_EPISODES, least=_LEAST)]):
        for name, calls in _disturbers(runner, first).items():
            if at >= 1 and time.monotonic() > ends_at:
                return hits, num
            found = await _after(runner, first, calls, difference)
            num += 1
            hits += bool(found)
            if found:
                cases.append(Case(what=f"{found}, once another episode has used {name}", where=first.task.id))
                break  # later runs would start from the altered state
    return hits, num


async def _after(runner: EpisodeRunner, first: Episode, calls: Sequence[Call], difference: Difference) -> str:
    drawn = first.task, first.target
    async with visits(runner, are_graded=True) as open_one:
        beside = await open_one(drawn, attempt=first.attempt, noise=first.noise)
        await runner.play(drawn, replay(calls), provokes=True)
        for call in first.calls:
            await beside.act(call)
        await beside.seal()
    beside.episode.digests.clear()  # the first recording has digests for every call
    again = await runner.play(
        drawn,
        replay(first.calls),
        attempt=first.attempt,
        noise=first.noise,
        num_digests=_EVERY,
        provokes=True,
    )
    return difference(first, again) or difference(first, beside.episode)


def _one_per_toolset(episodes: Sequence[Episode]) -> list[Episode]:
    """One episode of every family and tool set first."""
    seen: dict[object, int] = {}
    order = list[tuple[int, int]]()
    for at, each in enumerate(episodes):
        kind = (each.task.family, tuple(tool.name for tool in each.task.tools))
        seen[kind] = seen.get(kind, -1) + 1
        order.append((seen[kind], at))
    return [episodes[at] for _, at in sorted(order)]


def _disturbers(runner: EpisodeRunner, first: Episode) -> Mapping[str, Sequence[Call]]:
    """Calls of one tool, or of one of its commands, by name."""
    task, end = first.task, ending(first.task)
    most = max(min(task.limits.calls, task.limits.turns), 1)
    said = [value for call in first.calls for value in call.arguments.values() if isinstance(value, str)]
    read = [word for event in first.events for word in words_of(event.text)]
    words = list(
        dict.fromkeys(
            [*said, *words_of(min(task.prompt.values(), key=len)), *words_of(prompt_of(task)), *read]
        )
    )[:_WORDS]
    found: dict[str, Sequence[Call]] = {}
    for tool in task.tools:
        if end is not None and tool.name == end.name:
            continue
        own = [call for call in first.calls if call.tool == tool.name]
        found[tool.name] = [*own, *_saying(tool, words)][:most]
        for command in commands_of(runner.environment, tool, first.calls):
            found[f"{tool.name} {command}"] = [fill(tool, f"{command} {word}") for word in ("", *words)][
                :most
            ]
    return found


def _saying(tool: ToolSpec, words: Sequence[str]) -> list[Call]:
    """For each word: a call with it in all texts, and calls with it in one text only."""
    names = strings(tool)
    if not names:
        return [fill(tool, "")]
    parts = [name for name in names if len(names) > 1]
    return [
        call
        for word in words
        for call in (fill(tool, word), *(fill(tool, "zq", **{name: word}) for name in parts))
    ]
