"""Three qualities of what episodes look like: realism, scenario coverage, state diversity."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from itertools import product

from agito.audit.agents import malformed
from agito.audit.card import Case, Measure, Quality, judged
from agito.audit.episode import Drawn, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import percentile, share
from agito.types import Fault

_INSTANCES = 300
_MISTAKEN = 8  # tasks on which mistakes are made


async def realism(runner: EpisodeRunner) -> Quality:
    """Resemblance to production, judged from outside: declared tools, honest errors, faults, sizes. The
    weakest proxy of the eight.
    """
    told, made, cases = await _errors(runner)
    events = [event for episode in runner.honest for event in episode.events]
    faults = Counter(event.fault for event in events if event.fault in (Fault.TOOL, Fault.TIMEOUT))
    tools = {tool.name: tool for episode in runner.honest for tool in episode.task.tools}
    described = sum(
        bool(tool.description.strip()) and tool.parameters.get("type") == "object" for tool in tools.values()
    )
    sizes = [float(len(event.text.encode())) for event in events]
    cut = sum(event.truncated_bytes > 0 for event in events)
    measures = (
        share("tools described", described, len(tools), note="with a sentence and a JSON schema"),
        share("errors told", told, made, note="malformed calls answered by a policy fault that can be read"),
        share(
            "faults",
            sum(faults.values()),
            len(events),
            note=", ".join(f"{fault}: {n}" for fault, n in faults.items()) or "none seen",
        ),
        share("cut observations", cut, len(events), note="partly observed because they were too long"),
        Measure(name="observation p50", value=percentile(sizes, 0.5), num=len(sizes), unit="bytes"),
        Measure(name="observation p95", value=percentile(sizes, 0.95), num=len(sizes), unit="bytes"),
    )
    rate = sum(faults.values()) / max(len(events), 1)
    says = (
        f"{told} of {made} mistakes are told, {len(tools)} tools, {rate:.1%} of calls meet a fault; the "
        "weakest proxy"
    )
    return judged("realism", says, measures, (), cases, doubt=told < made or described < len(tools))


async def _errors(runner: EpisodeRunner) -> tuple[int, int, list[Case]]:
    """How many malformed calls are answered with a readable policy fault."""
    told = made = 0
    cases: list[Case] = []
    for drawn in runner.draw("train", runner.depth.of(_MISTAKEN, least=3)):
        calls = malformed(drawn[0])
        episode = await runner.play(drawn, replay([call for _, call in calls]))
        for (what, call), event in zip(calls, episode.events, strict=False):
            if event.fault in (Fault.TOOL, Fault.TIMEOUT):  # an injected fault came first
                continue
            made += 1
            is_told = event.fault is Fault.POLICY and bool(event.text.strip()) and not event.ended
            told += is_told
            if not is_told:
                cases.append(
                    Case(
                        what=f"{what} ({call.raw}) is answered {event.fault or 'without a fault'}: "
                        f"{event.text[:60]!r}",
                        where=drawn[0].id,
                    )
                )
    return told, made, cases


async def coverage(runner: EpisodeRunner) -> Quality:
    """Which cells of task x tool x fault the honest episodes reached."""
    environment = runner.environment
    tools = {tool.name for episode in runner.honest for tool in episode.task.tools}
    seen = Counter(
        (episode.task.cell, event.call.tool, str(event.fault or "none"))
        for episode in runner.honest
        for event in episode.events
        if event.call.tool in tools
    )
    cells = [f"{family}-{level}" for family, level in product(environment.families, environment.levels)]
    faults = sorted({fault for _, _, fault in seen})
    offered = {(episode.task.cell, tool.name) for episode in runner.honest for tool in episode.task.tools}
    lattice = {(cell, tool, fault) for cell, tool in offered for fault in faults}
    visited = {cell for cell, _, _ in seen}
    unused = sorted(tools - {tool for _, tool, _ in seen})
    cases = [Case(what=f"no honest agent uses the tool {tool}") for tool in unused]
    cases += [Case(what=f"no episode in the cell {cell}") for cell in cells if cell not in visited]
    tags = sorted({tag for episode in runner.honest for tag in episode.task.tags})
    measures = (
        share(
            "cells hit",
            len(lattice & set(seen)),
            len(lattice),
            note=f"task x tool x fault ({', '.join(faults)})",
        ),
        share("task cells hit", len(visited & set(cells)), len(cells), note="family x level"),
        share("tools used", len(tools) - len(unused), len(tools)),
        Measure(
            name="fault kinds",
            value=float(len([fault for fault in faults if fault != "none"])),
            num=len(runner.honest),
        ),
        Measure(name="tags", value=float(len(tags)), num=len(runner.honest), note=", ".join(tags)[:120]),
    )
    says = (
        f"{len(lattice & set(seen))} of {len(lattice)} cells of task x tool x fault met in "
        f"{len(runner.honest)} honest episodes"
    )
    return judged("scenario coverage", says, measures, (), cases, doubt=bool(unused))


def _some(body: str, bodies: Sequence[str], drawn: Sequence[Drawn]) -> str:
    """The first tasks that are this one."""
    ids = dict.fromkeys(task.id for (task, _), each in zip(drawn, bodies, strict=True) if each == body)
    return ", ".join([*ids][:2])


async def diversity(runner: EpisodeRunner) -> Quality:
    """Whether seeds make different tasks, and calls different states."""
    number = runner.depth.of(_INSTANCES, least=60)
    drawn = {split: runner.draw(split, number) for split in runner.environment.splits}
    streams = {split: [_body(each) for each in found] for split, found in drawn.items()}
    first = "train" if "train" in streams else next(iter(streams))
    train = streams[first]
    everywhere = [body for split in streams.values() for body in set(split)]
    shared = sum(count > 1 for count in Counter(everywhere).values())
    states = [digest for episode in runner.honest for digest in episode.digests]
    begins = {episode.digests[0] for episode in runner.honest if episode.digests}
    texts = [event.text for episode in runner.honest for event in episode.events]
    measures = (
        share(
            "distinct instances",
            len(set(train)),
            len(train),
            note="of the training stream, prompts and keys together",
        ),
        share("in two splits", shared, len(set(everywhere))),
        share("distinct states", len(set(states)), len(states), note="digests before and after every call"),
        share("distinct observations", len(set(texts)), len(texts)),
        Measure(
            name="begin in different states",
            value=float(len(begins)),
            num=sum(bool(episode.digests) for episode in runner.honest),
        ),
    )
    cases = [
        Case(what=f"{count} training tasks are one and the same", where=_some(body, train, drawn[first]))
        for body, count in Counter(train).most_common(3)
        if count > 1
    ]
    says = (
        f"{len(set(train))} of {len(train)} tasks are distinct, {len(set(states))} of {len(states)} "
        f"states; {shared} are in two splits"
    )
    return judged(
        "state diversity", says, measures, (), cases, doubt=len(set(train)) < 0.8 * len(train) or shared > 0
    )


def _body(drawn: Drawn) -> str:
    """What makes two tasks the same: prompt, level and key, but neither id nor seed."""
    task, target = drawn
    content = [sorted(task.prompt.items()), task.family, task.level, target.data]
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode(), digest_size=12
    ).hexdigest()
