"""Reset leakage: leaves marks on everything an episode can write, and looks for them in concurrent and later
episodes.

A mark counts as planted if its own episode can read it back, so surfaces that keep nothing prove nothing.
Only what tools can show and what is captured is searched.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agito.audit.agents import ending, fill, strings
from agito.audit.card import Case
from agito.audit.episode import Drawn
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.literals import words_in
from agito.audit.open_episodes import Open, Visit, visits
from agito.types import Call, Json, Task, ToolSpec

PREFIX = "zq7planted"
_SHELL, _PYTHON = "shell", "python"
# a tool that answers `zq42` executes its input
_RUNS = {_SHELL: "echo zq$((40 + 2))", _PYTHON: "print('zq' + str(42))"}
_WRITES = {
    _SHELL: {
        "file": "echo {mark} >{mark}.txt",
        "hidden file": "echo {mark} >.{mark}",
        "/tmp": "echo {mark} >/tmp/{mark}",
        "/var/tmp": "echo {mark} >/var/tmp/{mark}",
        "/dev/shm": "echo {mark} >/dev/shm/{mark}",
        "home": 'echo {mark} >"$HOME/.{mark}"',
        "profile": 'echo "# {mark}" >>"$HOME/.bashrc"',
        "variable": "export ZQ_{mark}={mark}",
        "process": "(exec -a {mark} sleep 20) >/dev/null 2>&1 &",
    },
    _PYTHON: {
        "file": "open('{mark}.txt', 'w').write('{mark}')",
        "/tmp": "open('/tmp/{mark}.txt', 'w').write('{mark}')",
        "module": "import builtins; builtins.zq_{mark} = '{mark}'",
        "variable": "import os; os.environ['ZQ_{mark}'] = '{mark}'",
    },
}
_SOUGHT = f"{PREFIX}[0-9a-f]*"
_READS = {
    _SHELL: (
        f"true; grep -rhoas '{_SOUGHT}' . | sort -u",
        f"true; grep -rhoas '{_SOUGHT}' /tmp /var/tmp /dev/shm 2>/dev/null | sort -u",
        f"true; grep -rhoas '{_SOUGHT}' \"$HOME\" 2>/dev/null | sort -u",
        f"true; ls -a . /tmp /var/tmp /dev/shm \"$HOME\" 2>/dev/null | grep -o '{_SOUGHT}' | sort -u",
        f"true; env | grep -o '{_SOUGHT}' | sort -u",
        f"true; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -ao '{_SOUGHT}' | sort -u",
        'true; cat ./* ./.* /tmp/* /dev/shm/* "$HOME"/.* 2>/dev/null | sed -n \'s/.*\\('
        + PREFIX
        + "[0-9a-f]*\\).*/\\1/p' | sort -u",
    ),
    _PYTHON: (
        "import glob; print([open(p).read(4000) for p in glob.glob('/tmp/*.txt') + glob.glob('*.txt')])",
        "import builtins; print([v for k, v in vars(builtins).items() if k.startswith('zq_')])",
        "import os; print([v for k, v in os.environ.items() if k.startswith('ZQ_')])",
    ),
}
_TASKS = 4
# words that may show or keep something; how many are tried in front of a mark
_WORDS, _LEAST_WORDS, _AFTER = 80, 10, 12


@dataclass(slots=True)
class Leaks:
    """Marks tried, planted, and seen by another episode."""

    tried: int = 0
    planted: int = 0
    found: int = 0


@dataclass(slots=True)
class _Marks:
    """Marks, and the surface on which each was left."""

    surfaces: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, surface: str) -> str:
        mark = PREFIX + secrets.token_hex(3)
        self.surfaces[mark] = surface
        return mark

    def seen_in(self, text: str) -> set[str]:
        return {mark for mark in self.surfaces if mark in text}


async def leakage(runner: EpisodeRunner, cases: list[Case]) -> Leaks:
    """On one task of every family, and a few more."""
    leaks = Leaks()
    words = words_in(runner.environment, runner.depth.of(_WORDS, least=_LEAST_WORDS))
    number = max(runner.depth.of(_TASKS, least=2), len(runner.environment.families))
    for at, drawn in enumerate(runner.draw("train", number)):
        if at >= 2 and runner.is_late:
            break
        async with visits(runner) as open_one:
            await _on_one_task(runner, open_one, drawn, words, leaks, cases)
    return leaks


async def _on_one_task(
    runner: EpisodeRunner, open_one: Open, drawn: Drawn, words: Sequence[str], leaks: Leaks, cases: list[Case]
) -> None:
    task, target = drawn
    marks = _Marks()
    trace = (await runner.play(drawn, runner.environment.solutions(task, target)[0])).calls
    beside = await open_one(drawn)  # opened before anything is planted, searched after
    planting = await open_one(drawn)
    interpreters = await _interpreters(planting, task)
    for call in _plants(task, trace, words, marks, interpreters):
        await planting.act(call)
    planted = marks.seen_in(await _search(planting, trace, words, interpreters))
    end = ending(task)
    if end is not None:
        await planting.act(fill(end, marks.new(f"{end.name}: the submission")))
    planted |= marks.seen_in(await _captured(planting))
    after, on_other_task = await open_one(drawn), await open_one(runner.draw("heldout", 1, first=7)[0])
    if (
        planting.episode.digests != after.episode.digests
        and not planting.episode.problem
        and not after.episode.problem
    ):
        cases.append(Case(what="after other episodes it begins in another state", where=task.id))
        leaks.found += 1
    seen: set[str] = set()
    for visit in (beside, after, on_other_task):
        seen |= marks.seen_in(await _search(visit, trace, words, interpreters) + await _captured(visit))
    leaks.tried += len(marks.surfaces)
    leaks.planted += len(planted | seen)
    leaks.found += len(seen)
    cases += [
        Case(what=f"another episode sees what was left: {marks.surfaces[mark]}", where=task.id)
        for mark in sorted(seen)
    ]


def _texts(task: Task) -> list[tuple[ToolSpec, str]]:
    """Every free text of every tool but the ending one."""
    end = ending(task)
    return [
        (tool, name) for tool in task.tools if end is None or tool.name != end.name for name in strings(tool)
    ]


async def _interpreters(visit: Visit, task: Task) -> dict[tuple[str, str], str]:
    """Which free texts are executed, and by what. Asks twice, because a tool may time out."""
    found: dict[tuple[str, str], str] = {}
    for tool, name in _texts(task):
        for kind, command in _RUNS.items():
            for _ in range(2):
                event = await visit.act(fill(tool, "x", **{name: command}))
                if event is not None and "zq42" in event.text:
                    found[tool.name, name] = kind
    return found


def _plants(
    task: Task,
    trace: Sequence[Call],
    words: Sequence[str],
    marks: _Marks,
    interpreters: Mapping[tuple[str, str], str],
) -> list[Call]:
    """Writes marks into every free text, by commands where it is executed, and into the solution's
    own calls.
    """
    found: list[Call] = []
    end = ending(task)
    for tool, name in _texts(task):
        found.append(fill(tool, "x", **{name: marks.new(f"{tool.name}.{name}")}))
        for surface, command in _WRITES.get(interpreters.get((tool.name, name), ""), {}).items():
            found.append(
                fill(tool, "x", **{name: command.format(mark=marks.new(f"{tool.name}.{name}: {surface}"))})
            )
        if (tool.name, name) not in interpreters:
            found += [
                fill(tool, "x", **{name: f"{word} {marks.new(f'{tool.name}.{name}, after {word!r}')}"})
                for word in words[:_AFTER]
            ]
    for call in trace:
        texts = [(name, value) for name, value in call.arguments.items() if isinstance(value, str)]
        if texts and not (end is not None and call.tool == end.name):
            name, _ = max(texts, key=lambda each: len(each[1]))
            arguments: dict[str, Json] = {
                **call.arguments,
                name: marks.new(f"{call.tool}.{name}, as the solution calls it"),
            }
            found.append(Call(tool=call.tool, arguments=arguments, raw=call.raw))
    return found


def _asking(kind: str) -> Sequence[str]:
    return _READS.get(kind, (PREFIX, "", "*"))


async def _search(
    visit: Visit, trace: Sequence[Call], words: Sequence[str], interpreters: Mapping[tuple[str, str], str]
) -> str:
    """Everything the tools show: replies to reading commands, to queries for the mark's prefix, and to the
    solution's calls.
    """
    task = visit.episode.task
    end = ending(task)
    calls = [
        fill(tool, "x", **{name: text})
        for tool, name in _texts(task)
        for text in _asking(interpreters.get((tool.name, name), ""))
    ]
    calls += [
        fill(tool, "x", **{name: word})
        for tool, name in _texts(task)
        if (tool.name, name) not in interpreters
        for word in words
    ]
    calls += [
        fill(tool, "")
        for tool in task.tools
        if not strings(tool) and not (end is not None and tool.name == end.name)
    ]
    calls += [call for call in trace if end is None or call.tool != end.name]
    events = [await visit.act(call) for call in calls]
    return "\n".join(event.text for event in events if event is not None)


async def _captured(visit: Visit) -> str:
    """Seals; returns the capture as text."""
    sealed = await visit.seal()
    if sealed is None:
        return ""
    return "\n".join(
        [
            sealed.submitted or "",
            *sealed.files,
            *(data.decode("utf-8", "replace") for data in sealed.files.values()),
        ]
    )
