"""Ways out: whatever a policy says, an attempt must come to a verdict.

Calls every tool with arguments that are missing, of every wrong type, huge, deep or odd, and with every
literal that the environment's source compares with. A call that leaves an attempt without a verdict twice is
a way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from agito.audit import limits
from agito.audit.agents import ending, exploring, fill, kind_of, parameters
from agito.audit.card import Case, Gate, clipped
from agito.audit.episode import Drawn, Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.literals import words_in
from agito.types import Call, Json, ToolSpec

_WORDS, _LEAST_WORDS = 160, 40
_TASKS = 4
_CONFIRMED = 8
_EXPLORED, _SPOILT = 12, 6  # explorers on each task; solved episodes whose last calls are altered


def _deep(kind: str, depth: int) -> Json:
    value: Json = []
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def odd_texts() -> list[str]:
    return [
        "",
        " ",
        "\n",
        "\0",
        "a\0b",
        "\ud800",
        "\u202eabc",
        "é",
        "\U0001d518",
        "-1",
        "0",
        "1e999",
        "nan",
        "-inf",
        "9" * 400,
        "1" * 6_000,
        "x" * 100_000,
        "[" * 1_000,
        "{" * 1_000,
        '{"a":' * 300,
        "null",
        "None",
        "true",
        "[]",
        "{}",
        "../../etc/passwd",
        "/",
        "~",
        "%s%n%d",
        "{0.__class__}",
        "' OR '1'='1",
        "\\",
        '"',
        "<b>&amp;</b>",
        "*",
        "(",
        "[a-",
        "a, b; c | d",
        "1/0",
        "0x10",
        "\uff11\uff12",
    ]


def odd_values() -> list[Json]:
    whole: list[Json] = [None, True, False, 0, -1, 10**20, 10**400, 1.5, -0.0, math.nan, math.inf]
    lists: list[Json] = [[], [None], ["x"], [[] for _ in range(100)], list(range(2_000)), _deep("list", 150)]
    objects: list[Json] = [{}, {"a": 1}, {"": ""}, _deep("dict", 150)]
    return [*whole, *lists, *objects]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provocation:
    """The calls of one episode, and what they try."""

    drawn: Drawn
    calls: tuple[Call, ...]
    explores: int | None = None  # seed of an exploring script that replaces the calls


async def ways_out(runner: EpisodeRunner, cases: list[Case]) -> Gate:
    tried = 0
    suspects: list[tuple[Provocation, Episode]] = []

    async def work(job: Provocation) -> None:
        nonlocal tried
        tried += len(job.calls)
        script = replay(job.calls)
        if job.explores is not None:
            script = exploring(job.drawn[0], job.explores, runner.environment.solutions(*job.drawn)[0])
        episode = await runner.play(job.drawn, script, provokes=True)
        if _is_way_out(episode):
            suspects.append((job, episode))

    tasks = _one_per_toolset(runner)
    each_of_them = [provocations(runner, drawn) for drawn in tasks]
    jobs = [job for group in zip_longest(*each_of_them) for job in group if job is not None]
    await runner.each(jobs, work, least=len(tasks))
    ways = await _confirmed(runner, suspects, cases)
    ways |= await _seen_before(runner, cases)
    return Gate(
        name="void",
        value=float(len(ways)),
        limit=limits.VOIDS,
        holds=not ways,
        found=f"an attempt ends without a verdict after {clipped('; '.join(sorted(ways)), 200)}"
        if ways
        else f"every attempt comes to a verdict, whatever is said: {tried} odd calls",
        remedy="score what the policy did as it stands: raise InvalidArguments for bad arguments, give the "
        "lowest reward to what cannot be "
        "parsed, and keep Verdict.void for a machine that failed",
    )


def _one_per_toolset(runner: EpisodeRunner) -> list[Drawn]:
    """One task of every family and tool set."""
    seen: dict[object, Drawn] = {}
    for drawn in runner.draw(
        "train", max(_TASKS, len(runner.environment.families) * len(runner.environment.levels)), first=300
    ):
        seen.setdefault((drawn[0].family, tuple(tool.name for tool in drawn[0].tools)), drawn)
    return list(seen.values())


def provocations(runner: EpisodeRunner, drawn: Drawn) -> list[Provocation]:
    """Likeliest ways out first. Calls that do not end the episode share one."""
    task = drawn[0]
    words = words_in(runner.environment, runner.depth.of(_WORDS, least=_LEAST_WORDS))
    end = ending(task)
    others = [tool for tool in task.tools if end is None or tool.name != end.name]
    found: list[Provocation] = []
    if end is not None:
        found += [Provocation(drawn=drawn, calls=(call,)) for call in _calls(end, words)]
    most = max(min(task.limits.calls, task.limits.turns), 1)
    calls = [call for tool in others for call in _calls(tool, words)]
    found[40:40] = [
        Provocation(drawn=drawn, calls=tuple(calls[at : at + most])) for at in range(0, len(calls), most)
    ]
    odd = (
        Call(tool="no_such_tool", arguments={}),
        Call(tool="", arguments={}, raw="@@ ((", problem="unparsable"),
        Call(tool="\0", arguments={}),
    )
    found[20:20] = [Provocation(drawn=drawn, calls=(), explores=seed) for seed in range(_EXPLORED)]
    found[20:20] = [Provocation(drawn=drawn, calls=(call,)) for call in _spoilt_ends(runner.solved)]
    found.append(Provocation(drawn=drawn, calls=odd[:most]))
    found.append(Provocation(drawn=drawn, calls=odd[:1] * most))
    return found


def _calls(tool: ToolSpec, words: Sequence[str]) -> Iterable[Call]:
    """Missing arguments, then words, odd texts and odd values: for all parameters at once, and one by one."""
    names = list(parameters(tool))
    yield Call(tool=tool.name, arguments={}, raw=tool.name)
    texts = [*words[:40], *odd_texts(), *words[40:]]
    for text in texts:
        yield Call(tool=tool.name, arguments=dict.fromkeys(names, text), raw=f"{tool.name} {text[:40]}")
    for value in odd_values():
        yield Call(
            tool=tool.name, arguments=dict.fromkeys(names, value), raw=f"{tool.name} {type(value).__name__}"
        )
    if len(names) > 1:
        for name in names:
            rest = {other: value for other, value in fill(tool, "x").arguments.items() if other != name}
            yield Call(tool=tool.name, arguments=rest, raw=f"{tool.name} without {name}")
            for text in words[:12]:
                yield fill(tool, "x", **{name: text})
            for value in odd_values():
                if kind_of(parameters(tool)[name]) != "string" or not isinstance(value, dict):
                    yield fill(tool, "x", **{name: value})
    yield Call(
        tool=tool.name,
        arguments={**fill(tool, "x").arguments, "no_such_argument": 1, "": None},
        raw=f"{tool.name} and more",
    )


def _spoilt_ends(solved: Sequence[Episode]) -> list[Call]:
    """Last calls of solutions, with each text altered in ways that keep its form."""
    found: dict[str, Call] = {}
    for episode in solved[:_SPOILT]:
        call = episode.calls[-1]
        for name, text in call.arguments.items():
            if not isinstance(text, str):
                continue
            for spoilt in _spoilt(text):
                arguments: dict[str, Json] = {**call.arguments, name: spoilt}
                found.setdefault(
                    spoilt, Call(tool=call.tool, arguments=arguments, raw=f"{call.tool} {spoilt}")
                )
    return list(found.values())


def _spoilt(text: str) -> Iterable[str]:
    words = text.split()[:6]
    for at, word in enumerate(words):
        for other in ("zq", "", "-1", "1.5", word + "x", word + word, "x" * 40, "\u0661", "1e9"):
            yield " ".join([*words[:at], other, *words[at + 1 :]])
    yield from (
        text[:-1],
        text[1:],
        text + text,
        text + " ",
        text + ",",
        text.upper(),
        text[::-1],
        f"[{text}]",
        text.replace(" ", ""),
    )


async def _confirmed(
    runner: EpisodeRunner, suspects: Sequence[tuple[Provocation, Episode]], cases: list[Case]
) -> set[str]:
    """Ways out that repeat when the calls are made alone, one for each kind of evidence."""
    ways: dict[str, str] = {}
    for job, first in suspects:
        evidence = first.problem or first.verdict.evidence
        if evidence in ways or len(ways) >= _CONFIRMED:
            continue
        whole = tuple(first.calls) or job.calls
        for calls in ((call,) for call in whole):
            episode = await runner.play(job.drawn, replay(calls), provokes=True)
            if _is_way_out(episode):
                ways[evidence] = _told(calls)
                break
        else:
            episode = await runner.play(job.drawn, replay(whole), attempt=first.attempt, provokes=True)
            if not _is_way_out(episode):
                continue  # it did not repeat: counted as an accident
            ways[evidence] = _told(whole)
        cases.append(
            Case(
                what=clipped(f"without a verdict after {ways[evidence]}: {evidence}", 240),
                where=job.drawn[0].id,
            )
        )
    return set(ways.values())


async def _seen_before(runner: EpisodeRunner, cases: list[Case]) -> set[str]:
    """Replays earlier episodes that had no verdict though nothing broke."""
    ways: dict[str, str] = {}
    for first in runner.voids:
        if first.verdict.evidence in ways or len(ways) >= _CONFIRMED:
            continue
        again = await runner.play(
            (first.task, first.target),
            replay(first.calls),
            attempt=first.attempt,
            noise=first.noise,
            provokes=True,
        )
        if again.is_void:
            ways[first.verdict.evidence] = _told(first.calls)
            cases.append(
                Case(
                    what=clipped(
                        f"without a verdict after {_told(first.calls)}: {first.verdict.evidence}", 240
                    ),
                    where=first.task.id,
                )
            )
    return set(ways.values())


def _is_way_out(episode: Episode) -> bool:
    """A failed sandbox is no way out: the driver finds out whether the attempt caused it."""
    return episode.is_void or episode.problem.startswith("env")


def _told(calls: Sequence[Call]) -> str:
    if not calls:
        return "no call at all"
    call = calls[-1]
    text = (
        f"{call.tool}({', '.join(f'{name}={str(value)[:40]!r}' for name, value in call.arguments.items())})"
    )
    return text[:120] + (f" and {len(calls) - 1} calls before it" if len(calls) > 1 else "")
