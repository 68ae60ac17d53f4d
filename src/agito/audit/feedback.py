"""Feedback richness: what rewards, errors and observations reveal, and whether they reveal what must be found
out.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from agito.audit.agents import malformed, parameters, prompt_of, words_of
from agito.audit.card import Case, Measure, Quality, judged
from agito.audit.episode import Drawn, Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import share
from agito.types import Call, Event, Fault, Task

_TASKS = 24
_SHORT = 4  # a shorter answer may appear anywhere by chance
_SHUFFLES = 20


async def feedback(runner: EpisodeRunner) -> Quality:
    rewards = Counter(round(episode.reward, 6) for episode in runner.honest if episode.reward is not None)
    scores = {name for episode in runner.honest for name in episode.verdict.scores}
    leaks, secrets, actionable, errors, cases = await _told(runner)
    bits = _information(runner.honest)
    said = share(
        "labels told",
        leaks,
        secrets,
        note="the answer verbatim in the task, or in the answer to a call that was a mistake",
    )
    measures = (
        Measure(name="distinct rewards", value=float(len(rewards)), num=sum(rewards.values())),
        Measure(
            name="scores named",
            value=float(len(scores)),
            num=len(runner.honest),
            note=", ".join(sorted(scores))[:120],
        ),
        share(
            "actionable errors",
            actionable,
            errors,
            note="errors that name a tool, a parameter, or what was expected",
        ),
        Measure(
            name="information about progress",
            value=bits,
            num=len(runner.honest),
            unit="bits",
            note="of an observation's kind, less what chance gives",
        ),
        said,
    )
    says = (
        f"{len(rewards)} distinct reward{'s' * (len(rewards) != 1)}, {actionable} of {errors} errors are "
        "actionable, "
        f"{bits or 0:.2f} bits about progress, "
        f"{leaks} label{'s' * (leaks != 1)} told"
    )
    return judged("feedback richness", says, measures, (), cases, doubt=leaks > 0 or actionable < errors)


async def _told(runner: EpisodeRunner) -> tuple[int, int, int, int, list[Case]]:
    """Labels revealed before they were earned, of how many; actionable errors, of how many."""
    cases: list[Case] = []
    leaks = actionable = errors = 0
    solved: list[tuple[Drawn, str]] = []
    mistaken: dict[str, list[Event]] = {}

    async def work(drawn: Drawn) -> None:
        solution = await runner.play(drawn, runner.environment.solutions(*drawn)[0])
        solved.append((drawn, solution.sealed.submitted or "" if solution.sealed else ""))
        mistaken[drawn[0].id] = (
            await runner.play(drawn, replay([call for _, call in malformed(drawn[0])]))
        ).events

    await runner.each(runner.draw("train", runner.depth.of(_TASKS, least=6), first=500), work, least=4)
    # repeated answers, such as "done", are no secret
    common = {answer for answer, count in Counter(answer for _, answer in solved).items() if count > 1}
    prompts = Counter(
        word for (task, _), _ in solved for word in set(words_of(" ".join(task.prompt.values())))
    )
    common |= {word for word, count in prompts.items() if count > 1}
    secrets = [(drawn, answer) for drawn, answer in solved if len(answer) >= _SHORT and answer not in common]
    for (task, _), answer in secrets:
        shown = [
            prompt_of(task),
            *task.prompt.values(),
            *task.tags,
            *(event.text for event in mistaken[task.id]),
        ]
        if any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) for text in shown):
            leaks += 1
            cases.append(
                Case(what=f"the answer {answer[:60]!r} can be read before it is earned", where=task.id)
            )
    for (task, _), _ in solved:
        for event in (each for each in mistaken[task.id] if each.fault is Fault.POLICY):
            errors += 1
            is_actionable = _is_actionable(event, task)
            actionable += is_actionable
            if not is_actionable and len(cases) < 6:
                cases.append(
                    Case(
                        what=f"{event.call.raw!r} is answered {event.text[:80]!r}, which does not say what "
                        "to do",
                        where=task.id,
                    )
                )
    return leaks, len(secrets), actionable, errors, cases


def _is_actionable(event: Event, task: Task) -> bool:
    """Whether the message names a tool or a parameter, or repeats the call's own problem."""
    known = [tool.name for tool in task.tools] + [name for tool in task.tools for name in parameters(tool)]
    call: Call = event.call
    return any(name in event.text for name in known) or bool(call.problem and call.problem in event.text)


def _information(episodes: Sequence[Episode]) -> float | None:
    """I(kind of observation; third of the way to success) in bits, minus its mean over shuffles (the bias of
    a small sample).
    """
    pairs: list[tuple[str, int]] = []
    for episode in (each for each in episodes if each.is_success and len(each.events) >= 3):
        pairs += [(_kind(event), 3 * at // len(episode.events)) for at, event in enumerate(episode.events)]
    if len(pairs) < 30:
        return None
    rng, kinds, thirds = random.Random(0), [kind for kind, _ in pairs], [third for _, third in pairs]
    by_chance = 0.0
    for _ in range(_SHUFFLES):
        rng.shuffle(thirds)
        by_chance += _mutual(list(zip(kinds, thirds, strict=True))) / _SHUFFLES
    return round(max(_mutual(pairs) - by_chance, 0.0), 3)


def _kind(event: Event) -> str:
    """A coarse kind of observation: tool, fault, exit code, first word without digits, log2 of the length."""
    word = re.sub(r"\d+", "#", event.text.split()[0])[:12] if event.text.split() else ""
    return f"{event.call.tool}/{event.fault}/{event.exit_code}/{word}/{len(event.text).bit_length()}"


def _mutual(pairs: Sequence[tuple[str, int]]) -> float:
    both, left, right, num = (
        Counter(pairs),
        Counter(a for a, _ in pairs),
        Counter(b for _, b in pairs),
        len(pairs),
    )
    return sum(count / num * math.log2(count * num / (left[a] * right[b])) for (a, b), count in both.items())
