"""Tests whether the answer, or what an answer would earn, can be read before it is earned: in prompts, tools,
replies to junk.

What an agent reads by doing the task is earned. So calls that honest agents make are left out; if one look is
all a task needs, so are replies to looking calls.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from agito.audit import limits
from agito.audit.agents import ending, fill, malformed, prompt_of, strings, words_of
from agito.audit.answer_checks import answer_checks
from agito.audit.answer_rules import Reading, Shown, readings
from agito.audit.attacks import Attackers
from agito.audit.card import Case, Gate
from agito.audit.episode import Episode, replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.literals import words_in
from agito.audit.open_loop import Memory
from agito.audit.statistics import earns_more
from agito.grading.marked_answers import Posed, alone, mark
from agito.protocols import Answered, Environment, Script, ScriptFactory
from agito.types import Call, Event, Fault, Task, ToolSpec

ASKED = "asked: "  # prefix of these attacks' names
_PROBED, _LEAST, _WORDS, _LEAST_WORDS = 150, 12, 60, 12
_ARGUMENTS = 8  # words of the prompt used as arguments
_EARLY = 5  # observations of a solution checked, of those followed by at least two more
_IN_CODE = ", in code"
_AT_FIRST = ("the descriptions of the tools", "the task's id and tags")
_FIRST_OF_TWO = "the first observation of two"
_LOOKING = " (of a tool that agents look with)"
# such a look may show the answer in up to this share of tasks: sensors are noisy, and later looks may only
# confirm
_OFTEN = 0.7
_MARGIN = 0.05
_SURE = 1e-5


async def leak_gate(runner: EpisodeRunner, solved: Sequence[Episode], cases: list[Case]) -> Gate:
    """The gate `told`: how many places reveal the answer."""
    secrets = _secrets(runner.environment, solved)
    distinct = {(*episode.task.prompt.values(), *secrets[episode.task.id]): episode for episode in solved}
    known = [episode for episode in distinct.values() if secrets[episode.task.id]]
    shown = await _texts_shown(runner, solved, known, secrets)
    found = _readable(shown, known, _chance(runner, known, secrets), cases)
    checks = await answer_checks(runner, solved)
    for check, read in checks:
        found += read is not None
        if read is not None:
            what = f"{check} tells right from wrong: {read.how}, in {read.hits} of {read.num} tasks"
            cases.append(Case(what=what, where=read.task))
    told = f"the answer can be read before it is earned in {found} of {len(shown) + len(checks)} places"
    if not shown and not checks:
        told = "no solution ends with an answer that another task does not have: there is nothing to tell"
    return Gate(
        name="told",
        value=float(found),
        limit=limits.TOLD,
        holds=not found,
        found=told,
        remedy="keep the answer, its codes and its reward out of prompts, tools and observations until the "
        "agent has found it",
    )


async def _texts_shown(
    runner: EpisodeRunner,
    solved: Sequence[Episode],
    known: Sequence[Episode],
    secrets: Mapping[str, Sequence[str]],
) -> Mapping[str, list[Shown]]:
    """Texts that an agent can read before it earns the answer, by place, each with the secret it may hold."""
    shown: dict[str, list[Shown]] = defaultdict(list)
    for episode in known:
        for place, text in _before(episode):
            cue = () if place in _AT_FIRST or place.startswith("the prompt") else _cue(episode.task)
            shown[place] += _with_secrets(text, episode, secrets, cue)
    for episode, place, text in await _probed(runner, known):
        shown[place] += _with_secrets(text, episode, secrets, _cue(episode.task))
    ways = _ways(solved)
    for episode in solved:
        for place, text in _before(episode) if episode.task.id in ways else ():
            shown[f"{place}{_IN_CODE}"] += _with_secrets(text, episode, ways, ())
    return shown


def _with_secrets(
    text: str, episode: Episode, secrets: Mapping[str, Sequence[str]], cue: tuple[str, ...]
) -> list[Shown]:
    task = episode.task.id
    return [Shown(text=text, answer=secret, task=task, cue=cue) for secret in secrets[task]]


def _chance(runner: EpisodeRunner, known: Sequence[Episode], secrets: Mapping[str, Sequence[str]]) -> float:
    """The share of tasks in which always naming the most common answer is right, and a margin."""
    commonest = Counter(secrets[episode.task.id][0] for episode in known).most_common(1)
    return max(runner.environment.chance_level, commonest[0][1] / len(known) if known else 0.0) + _MARGIN


def _readable(
    shown: Mapping[str, Sequence[Shown]], known: Sequence[Episode], chance: float, cases: list[Case]
) -> int:
    """The number of places whose texts give the answer away more often than `chance`."""
    needs_no_world = bool(known) and all(len(episode.calls) <= 1 for episode in known)
    found = 0
    for place, texts in shown.items():
        is_all_there_is = needs_no_world and place.startswith("the prompt")
        least = max(chance, _OFTEN if place.endswith((_LOOKING, _FIRST_OF_TWO)) else 0.0)
        read = readings(texts, least, is_all_there_is=is_all_there_is, is_coded=place.endswith(_IN_CODE))
        if not read and not is_all_there_is and (place in _AT_FIRST or place.startswith("the prompt")):
            one = told_at_first(_posed(texts), least)
            read = [one] if one and not place.endswith(_IN_CODE) else []
        found += bool(read)
        cases += [
            Case(
                what=f"{place}: the answer can be read {one.how} in {one.hits} of {one.num} tasks",
                where=one.task,
            )
            for one in read[:1]
        ]
    return found


def _posed(shown: Sequence[Shown]) -> list[Posed]:
    """What each task shows in one place, once, with all its answers."""
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in shown:
        answers[each.task, each.text].add(each.answer)
    return [
        Posed(task=task, text=text, answers=frozenset(own))
        for (task, text), own in list(answers.items())[:_PROBED]
    ]


def told_at_first(posed: Sequence[Posed], chance: float) -> Reading | None:
    """How texts shown at the beginning give answers away more often than by `chance`, as the contract
    of environments sees it.
    """
    given = alone(posed)
    if earns_more(len(given), len(posed), chance, _SURE):
        how = "as the only option there"
        return Reading(how=how, hits=len(given), num=len(posed), task=given[0].task)
    found = mark(posed, chance)
    return found and Reading(how=found.how, hits=found.hits, num=found.num, task=found.task)


def _secrets(environment: Environment, solved: Sequence[Episode]) -> dict[str, list[str]]:
    """The answers of each task: what its solution submits, unless most submit the same, and the environment's
    declared answers.
    """
    common = Counter(episode.submitted for episode in solved)
    found: dict[str, list[str]] = {}
    for episode in solved:
        answers = (
            list(environment.answers(episode.task, episode.target))
            if isinstance(environment, Answered)
            else []
        )
        if episode.submitted and common[episode.submitted] < 0.9 * len(solved):
            answers.append(episode.submitted)
        found[episode.task.id] = list(dict.fromkeys(answers))
    return found


def _ways(solved: Sequence[Episode]) -> dict[str, list[str]]:
    """Other secrets of each task: what its solution sends to each tool, in order."""
    found: dict[str, list[str]] = {}
    for episode in solved:
        said: dict[str, list[str]] = defaultdict(list)
        for event in episode.events:
            if not event.ended and event.fault is None:
                said[event.call.tool].append(str(next(iter(event.call.arguments.values()), "")))
        found[episode.task.id] = [" ".join(dict.fromkeys(texts)) for texts in said.values() if len(texts) > 1]
    return found


def _cue(task: Task) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words_of(prompt_of(task))))


def _before(episode: Episode) -> Iterable[tuple[str, str]]:
    """What is shown before the first call, and well before the last."""
    task = episode.task
    for dialect, text in task.prompt.items():
        yield f"the prompt ({dialect})", text
    yield (
        _AT_FIRST[0],
        "\n".join(f"{tool.name} {tool.description} {json.dumps(tool.parameters)}" for tool in task.tools),
    )
    yield _AT_FIRST[1], " ".join((task.id, *task.tags))
    looks = [event for event in episode.events if not event.ended and event.fault is None]
    if len(looks) == 2:
        yield _FIRST_OF_TWO, looks[0].text
    for at, event in enumerate(looks[: min(len(looks) - 2, _EARLY)]):
        yield f"observation {at + 1}, long before the last{_LOOKING}", event.text


async def _probed(runner: EpisodeRunner, known: Sequence[Episode]) -> list[tuple[Episode, str, str]]:
    """Replies to mistakes and to calls that no honest agent makes."""
    made = {_name(call) for episode in runner.honest for call in episode.calls}
    used = {call.tool for episode in runner.honest for call in episode.calls}
    words = words_in(runner.environment, runner.depth.of(_WORDS, least=_LEAST_WORDS))
    found: list[tuple[Episode, str, str]] = []

    async def work(job: tuple[Episode, Sequence[tuple[str, Call]]]) -> None:
        episode, probes = job
        played = await runner.play(
            (episode.task, episode.target), replay([call for _, call in probes]), provokes=True
        )
        is_long = sum(not event.ended for event in episode.events) > 1
        for (place, _), event in zip(probes, played.events, strict=False):
            is_junk = event.fault is Fault.POLICY or event.call.tool not in used
            if not event.ended and (is_junk or is_long):
                found.append((episode, place if is_junk else f"{place}{_LOOKING}", event.text))

    jobs: list[tuple[int, int, tuple[Episode, Sequence[tuple[str, Call]]]]] = []
    for order, episode in enumerate(known[: runner.depth.of(_PROBED, least=_LEAST)]):
        probes = [(place, call) for place, call in _probes(episode.task, words) if _name(call) not in made]
        most = max(min(episode.task.limits.calls, episode.task.limits.turns), 1)
        jobs += [(at, order, (episode, probes[at : at + most])) for at in range(0, len(probes), most)]
    await runner.each([job for _, _, job in sorted(jobs, key=lambda each: each[:2])], work, least=_LEAST)
    return found


def _probes(task: Task, words: Sequence[str]) -> Iterable[tuple[str, Call]]:
    for what, call in malformed(task):
        yield f"the answer to a mistake ({what}, {call.tool or 'no tool'})", call
    end = ending(task)
    tools = [tool for tool in task.tools if end is None or tool.name != end.name]
    for text in ("zq", "", *words):
        for tool in tools:
            if strings(tool) or text == "zq":
                yield f"the answer to {tool.name}({text!r})", fill(tool, text)
    for which, word in _argument_words(task):
        for tool in tools:
            for name in strings(tool):
                yield (
                    f"the answer to {tool.name}({name}: {which} of the prompt)",
                    fill(tool, "zq", **{name: word}),
                )
    if end is not None:
        yield f"the answer to {end.name}('zq')", fill(end, "zq")


def _argument_words(task: Task) -> Iterable[tuple[str, str]]:
    """Words of the shortest prompt and the numbers in them: likely arguments of a call."""
    words = words_of(min(task.prompt.values(), key=len))[-_ARGUMENTS:]
    for at, word in enumerate(reversed(words)):
        yield f"word {at + 1} from the end", word
        digits = "".join(each for each in word if each.isdigit())
        if digits and digits != word:
            yield f"the number in word {at + 1} from the end", digits


def _name(call: Call) -> str:
    return json.dumps([call.tool, call.arguments], sort_keys=True, default=str)


def secret_requests(runner: EpisodeRunner, solved: Sequence[Episode]) -> Attackers:
    """Attacks that ask a tool unused by honest agents about each known answer, and submit the one with the
    unusual reply.
    """
    used = {call.tool for episode in runner.honest for call in episode.calls}
    answers = Memory(list(solved)).commonest()

    def attacks(environment: Environment, task: Task) -> Mapping[str, ScriptFactory]:
        end = ending(task)
        tools = [tool for tool in task.tools if tool.name not in used and strings(tool)]
        texts = [
            text
            for call in answers
            if end is not None and call.tool == end.name
            for text in call.arguments.values()
            if isinstance(text, str)
        ]
        if end is None or not texts:
            return {}
        return {f"{ASKED}{tool.name}": _asks(task, tool, end, list(dict.fromkeys(texts))) for tool in tools}

    return attacks


def _asks(task: Task, tool: ToolSpec, end: ToolSpec, texts: Sequence[str]) -> ScriptFactory:
    def script() -> Script:
        said: dict[str, str] = {}
        for text in texts[: max(min(task.limits.calls, task.limits.turns) - 1, 1)]:
            event: Event = yield fill(tool, text)
            if event.ended:
                return
            said[text] = event.text.replace(text, "_")
        counts = Counter(said.values())
        yield fill(end, min(said, key=lambda text: counts[said[text]]))

    return script
