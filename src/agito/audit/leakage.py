"""Reset leakage: marks are left on everything that an episode can write, and looked for in the episodes after
it and beside it.

A mark counts as planted when its own episode can read it back, so that a surface that keeps nothing proves
nothing. What is searched is what the tools can show and what is captured; a place that no tool can read is
not searched.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agito.audit.agents import ending, fill, strings
from agito.audit.card import Case
from agito.audit.episode import Drawn
from agito.audit.literals import words_in
from agito.audit.stage import Stage
from agito.audit.visit import Open, Visit, visits
from agito.types import Call, Json, Task, ToolSpec

PREFIX = "zq7planted"
_SHELL, _PYTHON = "shell", "python"
# who answers `zq42` runs what it is given
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
_WORDS, _LEAST_WORDS, _AFTER = 80, 10, 12  # that may show or keep something; in front of a mark


@dataclass(slots=True)
class Leaks:
    """Marks that were tried, that took, and that another episode saw."""

    tried: int = 0
    planted: int = 0
    found: int = 0


@dataclass(slots=True)
class _Marks:
    """Marks, and the surface that each was left on."""

    surfaces: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, surface: str) -> str:
        mark = PREFIX + secrets.token_hex(3)
        self.surfaces[mark] = surface
        return mark

    def seen_in(self, text: str) -> set[str]:
        return {mark for mark in self.surfaces if mark in text}


async def leakage(stage: Stage, cases: list[Case]) -> Leaks:
    """On one task of every family, and some more."""
    leaks = Leaks()
    words = words_in(stage.environment, stage.depth.of(_WORDS, least=_LEAST_WORDS))
    number = max(stage.depth.of(_TASKS, least=2), len(stage.environment.families))
    for at, drawn in enumerate(stage.draw("train", number)):
        if at >= 2 and stage.is_late:
            break
        async with visits(stage) as open_one:
            await _on_one_task(stage, open_one, drawn, words, leaks, cases)
    return leaks


async def _on_one_task(
    stage: Stage, open_one: Open, drawn: Drawn, words: Sequence[str], leaks: Leaks, cases: list[Case]
) -> None:
    task, target = drawn
    marks = _Marks()
    trace = (await stage.play(drawn, stage.environment.solutions(task, target)[0])).calls
    beside = await open_one(drawn)  # opened before anything is planted, searched after
    planting = await open_one(drawn)
    runners = await _runners(planting, task)
    for call in _plants(task, trace, words, marks, runners):
        await planting.act(call)
    planted = marks.seen_in(await _search(planting, trace, words, runners))
    end = ending(task)
    if end is not None:
        await planting.act(fill(end, marks.new(f"{end.name}: the submission")))
    planted |= marks.seen_in(await _captured(planting))
    after, elsewhere = await open_one(drawn), await open_one(stage.draw("heldout", 1, first=7)[0])
    if (
        planting.episode.digests != after.episode.digests
        and not planting.episode.problem
        and not after.episode.problem
    ):
        cases.append(Case(what="after other episodes it begins in another state", where=task.id))
        leaks.found += 1
    seen: set[str] = set()
    for visit in (beside, after, elsewhere):
        seen |= marks.seen_in(await _search(visit, trace, words, runners) + await _captured(visit))
    leaks.tried += len(marks.surfaces)
    leaks.planted += len(planted | seen)
    leaks.found += len(seen)
    cases += [
        Case(what=f"another episode sees what was left: {marks.surfaces[mark]}", where=task.id)
        for mark in sorted(seen)
    ]


def _texts(task: Task) -> list[tuple[ToolSpec, str]]:
    """Every free text of every tool but the one that ends the episode."""
    end = ending(task)
    return [
        (tool, name) for tool in task.tools if end is None or tool.name != end.name for name in strings(tool)
    ]


async def _runners(visit: Visit, task: Task) -> dict[tuple[str, str], str]:
    """Which free texts are run as commands, and by what. Asked twice: a tool may time out."""
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
    runners: Mapping[tuple[str, str], str],
) -> list[Call]:
    """Every free text as text, and where it is run as the commands that write; then the solution's own calls,
    marked.
    """
    found: list[Call] = []
    end = ending(task)
    for tool, name in _texts(task):
        found.append(fill(tool, "x", **{name: marks.new(f"{tool.name}.{name}")}))
        for surface, command in _WRITES.get(runners.get((tool.name, name), ""), {}).items():
            found.append(
                fill(tool, "x", **{name: command.format(mark=marks.new(f"{tool.name}.{name}: {surface}"))})
            )
        if (tool.name, name) not in runners:
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
    visit: Visit, trace: Sequence[Call], words: Sequence[str], runners: Mapping[tuple[str, str], str]
) -> str:
    """All that the tools show: to the commands that read, to a question for the mark's beginning, and to the
    solution's calls.
    """
    task = visit.episode.task
    end = ending(task)
    calls = [
        fill(tool, "x", **{name: text})
        for tool, name in _texts(task)
        for text in _asking(runners.get((tool.name, name), ""))
    ]
    calls += [
        fill(tool, "x", **{name: word})
        for tool, name in _texts(task)
        if (tool.name, name) not in runners
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
    """Seals; what was captured, as text."""
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
