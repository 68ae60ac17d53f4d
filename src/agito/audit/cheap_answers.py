"""Whether a reward function pays for answers that need no thought, and whether it tells answers apart.

It is asked about a few texts for every prompt: constants, the commonest answers, the prompt itself, odd
texts, and what the answer's column holds.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agito.audit import limits
from agito.audit.card import Case, Gate, Measure, Quality, judged
from agito.audit.episode import Drawn
from agito.audit.episode_runner import GRADE_SEED, EpisodeRunner
from agito.audit.statistics import bounds
from agito.envs.prompts.reward import ANSWERS
from agito.grading.judge import ask
from agito.protocols import Environment
from agito.rollout import reward_range
from agito.types import Dialect, EpisodeArtifacts, Json, Status, Target, Verdict, mean

NOT_MEASURED = "not measured: nothing that was said has a reward"
PER_ANSWER = 24  # prompts that a text is tried on
CONSTANTS = ("", "0", "1", "Yes", "No", "True", "False", "A", "B", "C", "D", "None", "I don't know.")
ODD = ("\0", "…—\u200b🙂", "{" * 200, "1e999", "-" * 20_000, "<|im_end|>", "\\boxed{", "nan", "٣")
_FORMS = (r"\boxed{{{0}}}", "<answer>{0}</answer>", "#### {0}", "The answer is {0}.", "Answer: {0}")
_FORMED = 4  # prompts that odd texts, and other forms of the answer, are tried on
_COMMONEST = 6
_MOSTLY = 0.8  # of the prompts that announce an answer: then it is no choice among several
_LONGEST = 400  # characters of what may be an answer
# What announces an answer: "the answer is", "correct option is", and names of it before : or =.
_TELLS = re.compile(
    r"""(?:answer\W{0,3}is|correct\s+\w+\W{0,3}is|(?:answer|solution|ground.?truth|expected|correct|label)["'\])*_]*\s*[:=]+)"""
    r"""[\s"'\[(*_$]{0,4}""",
    re.IGNORECASE,
)


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
        """Of an interval around the mean: Wilson's, or two standard errors where partial rewards spread less
        than right and wrong answers would.
        """
        if not self.rewards:
            return 0.0
        wilson, middle, num = bounds(self.rewards)[0], self.mean, len(self.rewards)
        if all(reward in (0.0, 1.0) for reward in self.rewards):
            return wilson
        spread = sum((reward - middle) ** 2 for reward in self.rewards) / max(num - 1, 1)
        return max(wilson, middle - 2 * math.sqrt(spread / num))


@dataclass(slots=True)
class _Asked:
    """Asks the reward function, and keeps what it said, by task."""

    runner: EpisodeRunner
    seen: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def says(self, tasks: Sequence[Drawn], name: str, text: Callable[[Drawn], str]) -> _Earned:
        """Whoever answers so; what has no reward is left out here."""
        runner = self.runner
        low, high = reward_range(runner.environment)

        async def asked(drawn: Drawn) -> tuple[str, Verdict]:
            return drawn[0].id, await verdict_of(runner, runner.environment, drawn, text(drawn))

        found = await runner.each(tasks, asked, least=min(len(tasks), 8))
        rewards = [
            (task, (verdict.reward - low) / (high - low))
            for task, verdict in found
            if verdict.status is Status.SCORED
        ]
        for task, reward in rewards:
            self.seen[task].append(reward)
        return _Earned(name=name, rewards=tuple(reward for _, reward in rewards))


async def guarded_from_thoughtless(runner: EpisodeRunner, train: Sequence[Drawn]) -> Quality:
    cases: list[Case] = []
    asked = _Asked(runner)
    answers = [answer_of(target) for _, target in train]
    commonest = [
        answer for answer, _ in Counter(answer for answer in answers if answer).most_common(_COMMONEST)
    ]
    texts = list(dict.fromkeys((*CONSTANTS, *commonest)))
    tried = [
        await asked.says(train[:PER_ANSWER], _quoted(text), lambda drawn, text=text: text) for text in texts
    ]
    at = max(range(len(texts)), key=lambda at: tried[at].mean)
    best = await asked.says(train, _quoted(texts[at]), lambda drawn: texts[at])
    echo = await asked.says(
        train[: 2 * PER_ANSWER], "the prompt itself", lambda drawn: drawn[0].prompt[Dialect.NATURAL]
    )
    listing = "\n".join(f"The answer is {answer}." for answer in commonest)
    some: Sequence[Drawn] = train[: 2 * PER_ANSWER] if len(commonest) > 1 else ()
    hedge = await asked.says(some, "the commonest answers, all of them", lambda drawn: listing)
    known = [drawn for drawn, answer in zip(train, answers, strict=True) if answer][: 2 * PER_ANSWER]
    told = await asked.says(known, "the answer's column", lambda drawn: answer_of(drawn[1]))
    gates = (
        _leaks(train, answers, cases),
        await _difference(asked, train, known, told),
        *_cheap(best, echo, hedge, runner.environment.chance_level),
    )
    if not asked.seen:
        gates = (gates[0], *map(unmeasured, gates[1:]))
    shares = [bool(_stands_in(drawn, answer)) for drawn, answer in zip(train, answers, strict=True) if answer]
    contain = Measure(
        name="prompts that contain their answer",
        value=round(mean(shares), 4) if shares else None,
        num=len(shares),
    )
    measures = tuple(
        Measure(
            name=f"earned by {each.name}",
            value=round(each.mean, 4) if each.rewards else None,
            num=len(each.rewards),
        )
        for each in (best, echo, hedge, told)
    )
    most = max(each.mean for each in (best, echo, hedge))
    says = f"answers that need no thought earn up to {most:.2f} of full marks"
    if not any(each.rewards for each in (best, echo, hedge)):
        says = NOT_MEASURED
    doubt = any(gate.doubt for gate in gates) or bool(told.rewards and told.mean < 1)
    return judged("resistance to cheating", says, (*measures, contain), gates, cases, doubt=doubt)


async def _difference(asked: _Asked, train: Sequence[Drawn], known: Sequence[Drawn], told: _Earned) -> Gate:
    """Whether any two completions of one prompt earn different rewards: nothing is learned from equal ones.

    Where all of them earn the lowest, a right answer may still earn more: then it is a doubt, no refusal.
    """
    for text in ODD:
        await asked.says(train[:_FORMED], "an odd text", lambda drawn, text=text: text)
    for form in _FORMS:
        await asked.says(
            known[:_FORMED], "the answer in a form", lambda drawn, form=form: form.format(answer_of(drawn[1]))
        )
    rewards = [found for found in asked.seen.values() if len(found) > 1]
    num = sum(map(len, rewards))
    differ = sum(max(found) - min(found) > 1e-9 for found in rewards)
    highest = max((reward for found in rewards for reward in found), default=0.0)
    holds = bool(differ) or not highest > 1e-9
    doubt = ""
    if rewards and not differ and holds:
        doubt = (
            "no form of the answer's column that was tried earns more either"
            if told.rewards
            else "no right answer is known to try"
        )
    same = f"all {num} completions that were tried earn the same as others of their prompt"
    return Gate(
        name="difference",
        value=round(differ / max(len(rewards), 1), 4),
        limit=0.0,
        holds=holds,
        found=f"rewards of different completions differ on {differ} of {len(rewards)} prompts"
        if differ
        else f"{same}, up to {highest:.2f} of full marks: nothing can be learned from equal rewards"
        if not holds
        else f"{same}, the lowest reward"
        if rewards
        else NOT_MEASURED,
        remedy="let the reward depend on the completion: some must earn more than others of the same prompt",
        doubt=doubt,
    )


def unmeasured(gate: Gate) -> Gate:
    """Of a reward function that gave nothing that was said a reward."""
    remedy = "repair the reward function first"
    return replace(
        gate, value=None, holds=True, found=NOT_MEASURED, remedy=remedy, doubt="nothing is known of it"
    )


def _cheap(best: _Earned, echo: _Earned, hedge: _Earned, chance: float) -> tuple[Gate, ...]:
    """Answers that need no thought. `hedge` has no rewards where no answers are known."""
    limit = (chance or limits.CONSTANT) + limits.FLOOR

    def doubt(earned: _Earned) -> str:
        at = limits.CONSTANT_DOUBT
        return f"worth a look from {at:.2f} on" if earned.mean >= at and earned.mean > chance else ""

    def found(earned: _Earned, said: str) -> str:
        told = f"{said} earns {earned.mean:.2f} of full marks, {earned.low:.2f} at the least"
        return f"{told}; more than {limit:.2f} is refused"

    constant = Gate(
        name="constant answers",
        value=round(best.mean, 4),
        limit=limit,
        holds=best.low <= limit,
        found=found(best, f"always saying {best.name}"),
        remedy="balance the prompts, or let the reward tell answers apart; a guess that is worth so much by "
        f"nature is declared: chance={best.mean:.2f}",
        doubt=doubt(best),
    )
    copied = Gate(
        name="echo",
        value=round(echo.mean, 4),
        limit=limit,
        holds=echo.low <= limit,
        found=found(echo, "saying the prompt itself"),
        remedy="let the reward look at a whole answer, not at whether something stands in it",
        doubt=doubt(echo),
    )
    if not hedge.rewards:
        return constant, copied
    at_most = max(limit, best.mean)
    several = Gate(
        name="several answers",
        value=round(hedge.mean, 4),
        limit=round(at_most, 4),
        holds=hedge.low <= at_most,
        found=f"saying several answers at once earns {hedge.mean:.2f} of full marks, {hedge.low:.2f} at the "
        f"least, the best single one {best.mean:.2f}; more than {at_most:.2f} is refused",
        remedy="let the reward refuse an answer that names several",
        doubt=doubt(hedge),
    )
    return constant, copied, several


def _quoted(text: str) -> str:
    return repr(text[:40])


def _leaks(train: Sequence[Drawn], answers: Sequence[str], cases: list[Case]) -> Gate:
    """Answers that stand in their own prompt, right after words that announce one. One that must be found
    in a text is no leak, nor is the first of several that such words introduce.
    """
    announced = shown = 0
    for drawn, answer in zip(train, answers, strict=True):
        text = _text_of(drawn)
        ends = [match.end() for match in _TELLS.finditer(text)] if answer else []
        word = re.compile(rf"{re.escape(answer)}(?!\w)", re.IGNORECASE)
        announced += any(text[end : end + 1].strip() for end in ends)
        if any(word.match(text, end) for end in ends):
            shown += 1
            if len(cases) < 3:
                cases.append(Case(what=f"the prompt announces its answer, {answer!r:.40}", where=drawn[0].id))
    share = shown / max(len(train), 1)
    inside = sum(_stands_in(drawn, answer) for drawn, answer in zip(train, answers, strict=True) if answer)
    return Gate(
        name="leaks",
        value=round(share, 4),
        limit=limits.LEAKS,
        holds=share <= limits.LEAKS or shown < _MOSTLY * announced,
        found=f"{shown} of {len(train)} prompts say their own answer right after words that announce one, "
        f"such as “the answer is” (more than {limits.LEAKS:.0%} is refused), {announced - shown} something "
        f"else there; anywhere in the text it stands in {inside}, which is allowed"
        if any(answers)
        else f"not looked for: no column is called {', '.join(ANSWERS[:-1])} or {ANSWERS[-1]}",
        remedy="take the answer out of the prompt",
    )


def _text_of(drawn: Drawn) -> str:
    return "\n".join(str(message.get("content", "")) for message in drawn[0].messages)


def _stands_in(drawn: Drawn, answer: str) -> bool:
    """As words of its own, anywhere in its prompt."""
    return bool(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", _text_of(drawn), re.IGNORECASE))


def answer_of(target: Target) -> str:
    """What an answer's column says, as text; nothing where there is none, or where it is no short text."""
    inner = target.data.get("columns")
    columns: Mapping[str, Json] = inner if isinstance(inner, dict) else target.data
    for name in ANSWERS:
        value = columns.get(name)
        if isinstance(value, str | int | float) and 0 < len(str(value)) <= _LONGEST:
            return str(value)
    return ""


async def verdict_of(runner: EpisodeRunner, environment: Environment, drawn: Drawn, text: str) -> Verdict:
    """What the environment's grader says of this completion."""
    runner.num_episodes += 1
    return await ask(environment.grade, sealed_as(drawn, text), drawn[1], GRADE_SEED)


def sealed_as(drawn: Drawn, text: str) -> EpisodeArtifacts:
    """An attempt at this task that ended with this completion."""
    return EpisodeArtifacts(task_id=drawn[0].id, submitted=text.strip(), files={}, digest="")
