"""Tests whether tasks are what they claim: splits that share no tasks, and tasks that differ in more than a
number or a name.

A small world repeats itself by chance. The rate is measured between two streams of training tasks, and only
the excess counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agito.audit import limits
from agito.audit.card import Case, Gate
from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.statistics import differs
from agito.protocols import Environment, Unscripted

SPLITS = ("train", "heldout", "structural")
_OF_PROMPTS = ("train", "heldout")  # nobody can say what another structure of somebody's prompts would be
_TRAIN, _TEST, _OTHER_SEEDS, _PER_SEED = 3000, 400, (0, 1, 2, 3, 7, 42), 150
_DIGITS = re.compile(r"\d+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MOST_TOKENS, _MOST_PLACES, _MOST_FIELDS = 240, 24, 12
_NEAR = 4  # words between two parts of a name
_SAME = 4  # equal tasks that make a class


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The content of a task, without its id and seed.

    `sum` and `parts` allow a cheap hash of the task without one word: `sum` adds a number for every word and
    place, `parts` holds each word's contribution.
    """

    prompt: tuple[str, ...]
    whole: str
    prompt_without_digits: str
    without_digits: str
    sum: int
    parts: Mapping[str, int]
    fields: Mapping[str, str]  # fields of the target, by name
    seed: int

    @classmethod
    def of(cls, drawn: Drawn) -> Body:
        task, target = drawn
        said = " \n".join([f"{task.family} {task.level}", *(text for _, text in sorted(task.prompt.items()))])
        whole = f"{said}\n\n{json.dumps(target.data, sort_keys=True, default=str)}"
        prompt, parts = _tokens(said), Counter[str]()
        for at, token in enumerate(_tokens(whole)):
            parts[token] += hash((at, token))
        return cls(
            prompt=tuple(prompt),
            whole=whole,
            prompt_without_digits=_masked(said),
            without_digits=_masked(whole),
            sum=sum(parts.values()),
            parts=parts,
            seed=target.seed,
            fields={name: _plain(value) for name, value in target.data.items()},
        )


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)[:_MOST_TOKENS]


def _masked(text: str) -> str:
    return _DIGITS.sub("#", text)


# A view hides what does not matter in a task.
View = Callable[[Body], object]
_VIEWS: tuple[View, ...] = (
    lambda body: body.whole,
    lambda body: body.without_digits,
    lambda body: " ".join(body.prompt),
    lambda body: body.prompt_without_digits,
)


def _with(field: str) -> View:
    """The prompt with one field of the target: the whole target may hold the task's number, which would make
    all tasks distinct.
    """
    return lambda body: (body.prompt_without_digits, body.fields.get(field))


def _fields(runner: EpisodeRunner, drawn: Sequence[Drawn], bodies: Sequence[Body]) -> list[str]:
    """Fields of the target that vary between tasks and do not merely give the task's split, index or seed."""
    names = list(dict.fromkeys(name for body in bodies for name in body.fields))
    names = [name for name in names if len({body.fields.get(name) for body in bodies}) > 1]
    asked = [
        {_plain(value) for value in runner.arguments[task.id].values()}
        - {_plain(task.level), _plain(task.family)}
        for task, _ in drawn
    ]
    labels = {
        name
        for name in names
        if sum(body.fields.get(name, "") in each for body, each in zip(bodies, asked, strict=True))
        > len(asked) / 2
    }
    return [name for name in names if name not in labels][:_MOST_FIELDS]


def _without(place: int) -> View:
    """Hides one word of the prompt, wherever it occurs."""

    def view(body: Body) -> object:
        return body.sum - body.parts[body.prompt[place]] if place < len(body.prompt) else body.sum

    return view


def needed_splits(environment: Environment) -> tuple[str, ...]:
    return _OF_PROMPTS if isinstance(environment, Unscripted) else SPLITS


def splits_gate(runner: EpisodeRunner) -> Gate:
    """Checked first: without a structural split, a run finds out only after training."""
    missing = [split for split in needed_splits(runner.environment) if split not in runner.environment.splits]
    return Gate(
        name="splits",
        value=float(len(missing)),
        limit=0.0,
        holds=not missing,
        found=f"it has the splits {', '.join(runner.environment.splits)}"
        + (f" and lacks {', '.join(missing)}" if missing else ""),
        remedy="let `splits` and `task()` know train, heldout (other seeds) and structural (another "
        "structure, such as other parts)",
    )


def overlap(runner: EpisodeRunner, cases: list[Case]) -> Gate:
    """Held-out and structural tasks that are training tasks: whole, without digits, or but for one word."""
    train = runner.draw_cells("train", runner.depth.of(_TRAIN, least=60), within_s=runner.seconds_left / 4)
    for seed in (*_OTHER_SEEDS, runner.seed + 1, runner.seed - 1):
        train += runner.draw_cells(
            "train", runner.depth.of(_PER_SEED, least=8), seed=seed, within_s=runner.seconds_left / 20
        )
    number = runner.depth.of(_TEST, least=24)
    again = [
        Body.of(each)
        for each in runner.draw("train", number, seed=runner.seed + 7_919, within_s=runner.seconds_left / 10)
    ]
    seen = [Body.of(each) for each in train]
    drawn = {
        split: runner.draw(split, number, within_s=runner.seconds_left / 8)
        for split in runner.environment.splits
        if split != "train"
    }
    tested = {split: [Body.of(each) for each in found] for split, found in drawn.items()}
    worst, told = 0.0, ""
    for order, view in enumerate(
        (*_VIEWS, *map(_with, _fields(runner, train, seen)), *map(_without, _places(seen)))
    ):
        if order >= len(_VIEWS) + _MOST_FIELDS and runner.is_late:
            break
        known = {view(body) for body in seen}
        by_chance = sum(view(body) in known for body in again)
        for split, bodies in tested.items():
            hits = [at for at, body in enumerate(bodies) if view(body) in known]
            extra = len(hits) / len(bodies) - by_chance / len(again)
            if extra > max(worst, limits.OVERLAP) and differs(len(hits), len(bodies), by_chance, len(again)):
                worst, told = (
                    extra,
                    f"{extra:.0%} of the {split} tasks are training tasks"
                    + ("" if order == 0 else " but for a number or a word"),
                )
                cases.append(Case(what=f"{told}, such as this one", where=drawn[split][hits[0]][0].id))
    for split, bodies in tested.items():
        share, example = _known(seen, bodies, again)
        if share > max(worst, limits.OVERLAP) and example is not None:
            worst, told = share, f"{share:.0%} of the {split} tasks are training tasks"
            cases.append(Case(what=f"{told}, such as this one", where=drawn[split][example][0].id))
    return Gate(
        name="overlap",
        value=round(worst, 4),
        limit=limits.OVERLAP,
        holds=worst <= limits.OVERLAP,
        found=told
        or f"no held-out or structural task is among {len(train)} training tasks more often than chance "
        "explains",
        remedy="mix the split's name into the random seed, or give each split its own part of the data",
    )


def _known(seen: Sequence[Body], tested: Sequence[Body], again: Sequence[Body]) -> tuple[float, int | None]:
    """The share of tasks already seen whose prompt alone identifies them, so that they can be memorised. If
    training tasks repeat each other too, a world may depend on the seed, which must then be the same.
    """
    by_prompt: dict[object, set[object]] = defaultdict(set)
    repeats = not {body.whole for body in seen}.isdisjoint(body.whole for body in again)

    def name(body: Body) -> object:
        return (body.whole, body.seed if repeats else 0)

    for body in seen:
        by_prompt[body.prompt].add(name(body))
    hits = [at for at, body in enumerate(tested) if by_prompt.get(body.prompt) == {name(body)}]
    return (len(hits) / len(tested), hits[0]) if len(hits) >= 5 else (0.0, None)


def _places(bodies: Sequence[Body]) -> list[int]:
    """Word positions where prompts of the most common length differ."""
    length = Counter(len(body.prompt) for body in bodies).most_common(1)[0][0] if bodies else 0
    alike = [body.prompt for body in bodies if len(body.prompt) == length]
    return [at for at in range(2, length) if len({prompt[at] for prompt in alike}) > 1][:_MOST_PLACES]


def duplicates(solved: Sequence[Episode], cases: list[Case]) -> Gate:
    """Solved training tasks with the same prompt, observations and answer but for their digits or a name."""
    tasks = [_Shown.of(episode) for episode in solved if episode.task.split == "train"]
    views: list[Callable[[_Shown], object]] = [lambda shown: shown.without_digits()]
    length = Counter(len(task.prompt) for task in tasks).most_common(1)[0][0] if tasks else 0
    alike = [task.prompt for task in tasks if len(task.prompt) == length]
    places = [at for at in range(length) if len({prompt[at] for prompt in alike}) > 1][:_MOST_PLACES]
    views += [_Shown.without_words(at) for at in places]
    views += [
        _Shown.without_words(at, after) for at in places for after in places if at < after <= at + _NEAR
    ]
    worst, example = 0.0, ""
    for view in views:
        classes: dict[object, list[_Shown]] = defaultdict(list)
        for task in tasks:
            classes[view(task)].append(task)
        same = [
            each
            for each in classes.values()
            if len(each) >= _SAME and len({one.answer for one in each}) == 1 and _pretends(each)
        ]
        share = sum(map(len, same)) / max(len(tasks), 1)
        if share > worst:
            worst, example = (
                share,
                f"{len(same[0])} training tasks are one and the same but for a number or a name: "
                f"{same[0][0].id}, {same[0][1].id}",
            )
    holds = worst <= limits.DUPLICATES
    if not holds:
        cases.append(Case(what=example))
    return Gate(
        name="duplicates",
        value=round(worst, 4),
        limit=limits.DUPLICATES,
        holds=holds,
        found=example
        if not holds
        else f"{worst:.0%} of {len(tasks)} training tasks have twins that differ in a number or a name only",
        remedy="draw what matters afresh for every task, not a serial number",
    )


def _pretends(same: Sequence[_Shown]) -> bool:
    """A small set of tasks that repeats openly is fair; one whose repetitions look new is not."""
    return len({one.prompt for one in same}) > 0.6 * len(same)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What a solved episode said, showed and answered."""

    id: str
    prompt: tuple[str, ...]
    seen: tuple[str, ...]
    answer: str

    @classmethod
    def of(cls, episode: Episode) -> _Shown:
        texts = " \n".join(text for _, text in sorted(episode.task.prompt.items()))
        seen = " \n".join(event.text for event in episode.events if event.fault is None)
        answer = (episode.sealed.submitted if episode.sealed else None) or ""
        calls = " ".join(str(sorted(call.arguments.items())) for call in episode.calls)
        return cls(
            id=episode.task.id,
            prompt=tuple(_tokens(texts)),
            seen=tuple(_tokens(seen)),
            answer=answer or calls,
        )

    def without_digits(self) -> object:
        return _masked(" ".join((*self.prompt, "\n", *self.seen)))

    @staticmethod
    def without_words(*places: int) -> Callable[[_Shown], object]:
        """Without one word; or without a name of several words, and all digits."""

        def view(shown: _Shown) -> object:
            if max(places) >= len(shown.prompt):
                return shown
            words = {shown.prompt[place] for place in places}
            texts = (
                " ".join("_" if token in words else token for token in tokens)
                for tokens in (shown.prompt, shown.seen)
            )
            return tuple(_masked(text) if len(places) > 1 else text for text in texts)

        return view
