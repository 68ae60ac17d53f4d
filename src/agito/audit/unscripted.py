"""What an audit can say of prompts with a reward function, without a script that solves them.

The reward function is called on texts that any policy could say without having understood a thing, again and
again, and in another instance of the environment. How hard the prompts are, and whether better answers earn
more, only a policy can show.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from agito.audit import limits
from agito.audit.card import Case, Gate, Mark, Measure, Quality, judged
from agito.audit.episode import Drawn
from agito.audit.episode_runner import GRADE_SEED, EpisodeRunner
from agito.audit.statistics import bounds
from agito.audit.task_pool import splits_gate
from agito.grading.judge import ask
from agito.protocols import Environment, Finite
from agito.rollout import EpisodeDriver, reward_range
from agito.types import Dialect, EpisodeArtifacts, Json, Status, Target, Verdict, mean

_TASKS = 120  # of each split that are looked at, at the most
_PER_ANSWER = 24
_COMMONEST = 6
_JUDGED = 6  # completions without a reward that are judged as training judges them
_CONSTANTS = ("", "0", "1", "Yes", "No", "True", "False", "A", "B", "C", "D", "None", "I don't know.")
_ODD = ("\0", "…—\u200b🙂", "{" * 200, "1e999", "-" * 20_000, "<|im_end|>", "\\boxed{", "nan", "٣")
_ANSWERS = ("answer", "solution", "ground_truth", "target", "label", "reference", "expected")
_MOSTLY = 0.8  # of the prompts that announce an answer: then it is no choice among several
_LONGEST = 400  # characters of what may be an answer
# What announces an answer: "the answer is", "correct option is", and names of it before : or =.
_TELLS = re.compile(
    r"""(?:answer\W{0,3}is|correct\s+\w+\W{0,3}is|(?:answer|solution|ground.?truth|expected|correct|label)["'\])*_]*\s*[:=]+)"""
    r"""[\s"'\[(*_$]{0,4}""",
    re.IGNORECASE,
)


async def unscripted(runner: EpisodeRunner) -> tuple[Quality, ...]:
    """The qualities of a card; those of which nothing can be known say so."""
    runner.begin("prompts", 0.2)
    tasks = {split: runner.draw(split, _size(runner, split)) for split in runner.environment.splits}
    diverse = _diversity(runner, tasks)
    runner.begin("what needs no thought", 0.7)
    guarded = await _guarded(runner, tasks["train"])
    runner.begin("the same again", 1.0)
    steady = await _steady(runner, tasks["train"])
    return (
        steady,
        _unknown("realism"),
        _unknown("scenario coverage"),
        _unknown("difficulty gradient"),
        diverse,
        _unknown("feedback richness"),
        guarded,
        _unknown("scalability of rollout generation"),
    )


def _unknown(name: str) -> Quality:
    return Quality(
        name=name, mark=Mark.DOUBT, says="not measured: prompts have no scripts to measure it by", measures=()
    )


def _size(runner: EpisodeRunner, split: str) -> int:
    environment = runner.environment
    return (
        min(_TASKS, environment.num_tasks(split))
        if isinstance(environment, Finite)
        else runner.depth.of(_TASKS)
    )


def _diversity(runner: EpisodeRunner, tasks: dict[str, list[Drawn]]) -> Quality:
    """Prompts that are in two splits, and prompts that are there twice."""
    environment, cases = runner.environment, list[Case]()
    whole = {
        split: [
            _key(drawn)
            for drawn in runner.draw(
                split, environment.num_tasks(split) if isinstance(environment, Finite) else len(found)
            )
        ]
        for split, found in tasks.items()
    }
    train = set(whole["train"])
    shared = {
        split: sum(key in train for key in keys) / max(len(keys), 1)
        for split, keys in whole.items()
        if split != "train"
    }
    worst = max(shared, key=lambda split: shared[split])
    if shared[worst]:
        cases.append(
            Case(what=f"in training and {worst}: {next(key for key in whole[worst] if key in train)[:160]}")
        )
    holds = shared[worst] <= limits.OVERLAP
    overlap = Gate(
        name="overlap",
        value=round(shared[worst], 4),
        limit=limits.OVERLAP,
        holds=holds,
        found=f"{shared[worst]:.0%} of the {worst} prompts are training prompts, but for case and white "
        "space",
        remedy="take out of the training data what is in the held-out file; without such a file the "
        "splits are made disjoint",
    )
    twice = 1 - len(train) / len(whole["train"])
    measures = (
        *(Measure(name=f"{split} prompts", value=float(len(keys))) for split, keys in whole.items()),
        Measure(name="training prompts that repeat", value=round(twice, 4)),
    )
    says = f"{len(train)} distinct training prompts"
    return judged(
        "state diversity",
        says,
        measures,
        (splits_gate(runner), overlap),
        cases,
        doubt=len(train) < 50 or twice > 0.2,
    )


def _key(drawn: Drawn) -> str:
    return " ".join(drawn[0].prompt[Dialect.NATURAL].lower().split())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Earned:
    """What one way to answer every prompt came to."""

    name: str
    rewards: tuple[float, ...]  # on the scale from 0, the lowest, to 1

    @property
    def mean(self) -> float:
        return mean(self.rewards) if self.rewards else 0.0

    @property
    def low(self) -> float:
        """Of an interval around the mean."""
        return bounds(self.rewards)[0] if self.rewards else 0.0


async def _guarded(runner: EpisodeRunner, train: Sequence[Drawn]) -> Quality:
    cases: list[Case] = []
    answers = [_answer(target) for _, target in train]
    commonest = [
        answer for answer, _ in Counter(answer for answer in answers if answer).most_common(_COMMONEST)
    ]
    texts = list(dict.fromkeys((*_CONSTANTS, *commonest)))
    tried = [
        await _says(runner, train[:_PER_ANSWER], _quoted(text), lambda drawn, text=text: text)
        for text in texts
    ]
    at = max(range(len(texts)), key=lambda at: tried[at].mean)
    best = await _says(runner, train, _quoted(texts[at]), lambda drawn: texts[at])
    echo = await _says(
        runner, train[: 2 * _PER_ANSWER], "the prompt itself", lambda drawn: drawn[0].prompt[Dialect.NATURAL]
    )
    listing = "\n".join(f"The answer is {answer}." for answer in commonest)
    some: Sequence[Drawn] = train[: 2 * _PER_ANSWER] if len(commonest) > 1 else ()
    hedge = await _says(runner, some, "the commonest answers, all of them", lambda drawn: listing)
    known = [drawn for drawn, answer in zip(train, answers, strict=True) if answer][: 2 * _PER_ANSWER]
    told = await _says(runner, known, "the answer's column", lambda drawn: _answer(drawn[1]))
    limit = runner.environment.chance_level or limits.CONSTANT
    gates = (_leaks(train, answers, cases), *_cheap(best, echo, hedge, limit))
    measures = tuple(
        Measure(
            name=f"earned by {each.name}",
            value=round(each.mean, 4) if each.rewards else None,
            num=len(each.rewards),
        )
        for each in (best, echo, hedge, told)
    )
    holds = all(gate.holds for gate in gates)
    says = "no answer without thought pays" if holds else "it pays for answers without thought"
    doubt = bool(told.rewards) and told.mean < 1
    return judged("resistance to cheating", says, measures, gates, cases, doubt=doubt)


def _cheap(best: _Earned, echo: _Earned, hedge: _Earned, limit: float) -> tuple[Gate, ...]:
    """Answers that need no thought. `hedge` has no rewards where no answers are known."""
    constant = Gate(
        name="constant answers",
        value=round(best.mean, 4),
        limit=limit,
        holds=best.low <= limit,
        found=f"always saying {best.name} earns {best.mean:.2f} of full marks",
        remedy="balance the prompts, or let the reward tell answers apart; a guess that is worth so much by "
        f"nature is declared: chance={best.mean:.2f}",
    )
    copied = Gate(
        name="echo",
        value=round(echo.mean, 4),
        limit=limit,
        holds=echo.low <= limit,
        found=f"saying the prompt itself earns {echo.mean:.2f} of full marks",
        remedy="let the reward look at a whole answer, not at whether something stands in it",
    )
    if not hedge.rewards:
        return constant, copied
    at_most = max(limit, best.mean)
    several = Gate(
        name="several answers",
        value=round(hedge.mean, 4),
        limit=round(at_most, 4),
        holds=hedge.low <= at_most,
        found=f"saying several answers at once earns {hedge.mean:.2f}, the best single one {best.mean:.2f}",
        remedy="let the reward refuse an answer that names several",
    )
    return constant, copied, several


async def _says(
    runner: EpisodeRunner, tasks: Sequence[Drawn], name: str, text: Callable[[Drawn], str]
) -> _Earned:
    """Whoever answers so; what has no reward is left out here."""
    low, high = reward_range(runner.environment)
    verdicts = await runner.each(
        tasks,
        lambda drawn: _verdict(runner, runner.environment, drawn, text(drawn)),
        least=min(len(tasks), 8),
    )
    rewards = [
        (verdict.reward - low) / (high - low) for verdict in verdicts if verdict.status is Status.SCORED
    ]
    return _Earned(name=name, rewards=tuple(rewards))


def _quoted(text: str) -> str:
    return repr(text[:40])


def _leaks(train: Sequence[Drawn], answers: Sequence[str], cases: list[Case]) -> Gate:
    """Answers that stand in their own prompt, right after words that announce one. One that must be found
    in a text is no leak, nor is the first of several that such words introduce.
    """
    announced = shown = 0
    for (task, _), answer in zip(train, answers, strict=True):
        text = "\n".join(str(message.get("content", "")) for message in task.messages)
        ends = [match.end() for match in _TELLS.finditer(text)] if answer else []
        word = re.compile(rf"{re.escape(answer)}(?!\w)", re.IGNORECASE)
        announced += any(text[end : end + 1].strip() for end in ends)
        if any(word.match(text, end) for end in ends):
            shown += 1
            if len(cases) < 3:
                cases.append(Case(what=f"the prompt says its answer, {answer!r:.40}", where=task.id))
    share = shown / max(len(train), 1)
    return Gate(
        name="leaks",
        value=round(share, 4),
        limit=limits.LEAKS,
        holds=share <= limits.LEAKS or shown < _MOSTLY * announced,
        found=f"{share:.0%} of {len(train)} prompts say their own answer"
        if any(answers)
        else "no column is known to hold answers",
        remedy="take the answer out of the prompt",
    )


def _answer(target: Target) -> str:
    """What an answer's column says, as text; nothing where there is none, or where it is no short text."""
    inner = target.data.get("columns")
    columns: Mapping[str, Json] = inner if isinstance(inner, dict) else target.data
    for name in _ANSWERS:
        value = columns.get(name)
        if isinstance(value, str | int | float) and 0 < len(str(value)) <= _LONGEST:
            return str(value)
    return ""


async def _steady(runner: EpisodeRunner, train: Sequence[Drawn]) -> Quality:
    """The same completion is worth the same, later and in another instance; ordinary ones have a reward."""
    cases: list[Case] = []
    ordinary = (
        (drawn, (_answer(drawn[1]) or "No", _CONSTANTS[at % len(_CONSTANTS)]))
        for at, drawn in enumerate(train[:_PER_ANSWER])
    )
    texts = [(drawn, text) for drawn, said in ordinary for text in said]
    here, other = runner.environment, runner.make()
    try:
        first = [await _verdict(runner, here, *each) for each in texts]
        again = [await _verdict(runner, other, *each) for each in reversed(texts)][::-1]
        later = [await _verdict(runner, here, *each) for each in texts]
    finally:
        with anyio.CancelScope(shield=True):
            await other.aclose()
    differs = [
        at
        for at in range(len(texts))
        if len({repr((each[at].status, each[at].reward)) for each in (first, again, later)}) > 1
    ]
    for at in differs[:3]:
        worth = ", then ".join(f"{each[at].reward:g}" for each in (first, again, later))
        cases.append(Case(what=f"{texts[at][1]!r:.60} earns {worth}", where=texts[at][0][0].id))
    gate = Gate(
        name="determinism",
        value=len(differs) / max(len(texts), 1),
        limit=0.0,
        holds=not differs,
        found=f"{len(differs)} of {len(texts)} completions are worth something else when judged again",
        remedy="no clock, no generator without a seed, nothing kept between two calls; ask a judge model "
        "by `Judge`, which keeps answers",
    )
    raised = [each for each, verdict in zip(texts, first, strict=True) if verdict.status is Status.VOID]
    works = await _works(runner, raised, len(texts), cases)
    odd = [(text, await _verdict(runner, here, train[0], text)) for text in _ODD]
    raises = [(text, verdict) for text, verdict in odd if verdict.status is Status.VOID]
    cases += [Case(what=f"on {text[:12]!r}: {verdict.evidence[:160]}") for text, verdict in raises[:3]]
    says = "judged again, the same verdict" if not differs else "its verdicts change"
    measures = (
        Measure(name="ordinary texts it fails on", value=float(len(raised)), num=len(texts)),
        Measure(name="odd texts it fails on", value=float(len(raises)), num=len(odd)),
    )
    return judged("stability", says, measures, (gate, works), cases, doubt=bool(raises or raised))


async def _works(
    runner: EpisodeRunner, raised: Sequence[tuple[Drawn, str]], num: int, cases: list[Case]
) -> Gate:
    """A completion that the reward function fails on is scored in training, if it does not fail on a
    reference beside it.
    """
    driver = EpisodeDriver(runner.environment, noise_seed=0, grade_seed=GRADE_SEED)
    told = [await driver.grade(_sealed(drawn, text), *drawn) for drawn, text in raised[:_JUDGED]]
    cases += [Case(what=text[:240]) for text in dict.fromkeys(each.evidence for each in told)][:3]
    broken = [verdict.evidence for verdict in told if verdict.status is Status.VOID]
    return Gate(
        name="reward function",
        value=len(broken) / max(len(told), 1),
        limit=0.0,
        holds=not broken,
        found=f"it fails whatever the answer: {broken[0][:200]}"
        if broken
        else f"it gives {num - len(raised)} of {num} ordinary answers a reward, and the others the lowest",
        remedy="return the lowest reward for what cannot be read; raise only where nothing can be said, "
        "which makes the attempt void",
    )


async def _verdict(runner: EpisodeRunner, environment: Environment, drawn: Drawn, text: str) -> Verdict:
    runner.num_episodes += 1
    return await ask(environment.grade, _sealed(drawn, text), drawn[1], GRADE_SEED)


def _sealed(drawn: Drawn, text: str) -> EpisodeArtifacts:
    return EpisodeArtifacts(task_id=drawn[0].id, submitted=text.strip(), files={}, digest="")
