"""Whether the tasks are what they claim: three splits that do not share tasks, and tasks that differ in more than a number or a name.

A small world repeats itself by chance: how often is measured between two streams of training tasks, and only what goes beyond it counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agito.grading.audit import limits
from agito.grading.audit.card import Case, Gate
from agito.grading.audit.numbers import differs
from agito.grading.audit.stage import Drawn, Episode, Stage

SPLITS = ("train", "heldout", "structural")
_TRAIN, _TEST, _OTHER_SEEDS, _PER_SEED = 3000, 400, (0, 1, 2, 3, 7, 42), 150
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MOST_TOKENS, _MOST_PLACES = 240, 24
_SAME = 4  # tasks that make a class of one and the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a task says and hides, in tokens. Its name is no part of it, and its seed does not make it another."""

    prompt: tuple[str, ...]
    hidden: tuple[str, ...]
    seed: int = field(compare=False)

    @classmethod
    def of(cls, drawn: Drawn) -> Body:
        task, key = drawn
        texts = [text for _, text in sorted(task.prompt.items())]
        hidden = json.dumps(key.data, sort_keys=True, default=str)
        cell = (task.family, str(task.level))
        return cls(prompt=(*cell, *_tokens(" \n".join(texts))), hidden=tuple(_tokens(hidden)), seed=key.seed)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)[:_MOST_TOKENS]


# How to look at a task so that what does not matter is not seen.
View = Callable[[Body], object]


def _whole(body: Body) -> object:
    return body


def _without_digits(body: Body) -> object:
    return [tuple(re.sub(r"\d+", "#", token) for token in tokens) for tokens in (body.prompt, body.hidden)].__repr__()


def _prompt(body: Body) -> object:
    return body.prompt


def _prompt_without_digits(body: Body) -> object:
    return tuple(re.sub(r"\d+", "#", token) for token in body.prompt)


def _without(place: int) -> View:
    """Blind for one word of the prompt, wherever it stands."""

    def view(body: Body) -> object:
        if place >= len(body.prompt):
            return body
        word = body.prompt[place]
        return tuple(tuple("_" if token == word else token for token in tokens) for tokens in (body.prompt, body.hidden))

    return view


def splits_gate(stage: Stage) -> Gate:
    """Said first: what has no structural split is evaluated on one only after it was trained."""
    missing = [split for split in SPLITS if split not in stage.environment.splits]
    return Gate(
        name="splits", value=float(len(missing)), limit=0.0, holds=not missing,
        found=f"it has the splits {', '.join(stage.environment.splits)}" + (f" and lacks {', '.join(missing)}" if missing else ""),
        remedy="let `splits` and `task()` know train, heldout (other seeds) and structural (another structure, such as longer or other parts)",
    )  # fmt: skip


def overlap(stage: Stage, cases: list[Case]) -> Gate:
    """Held-out and structural tasks that are training tasks, whole, without digits, or but for one word."""
    train = stage.draw_cells("train", stage.depth.of(_TRAIN, least=60), within_s=stage.seconds_left / 4)
    for seed in (*_OTHER_SEEDS, stage.seed + 1, stage.seed - 1):
        train += stage.draw_cells("train", stage.depth.of(_PER_SEED, least=8), seed=seed, within_s=stage.seconds_left / 20)
    number = stage.depth.of(_TEST, least=24)
    again = [Body.of(each) for each in stage.draw("train", number, seed=stage.seed + 7_919, within_s=stage.seconds_left / 10)]
    seen = [Body.of(each) for each in train]
    views: list[View] = [_whole, _without_digits, _prompt, _prompt_without_digits, *map(_without, _places(seen))]
    worst, told = 0.0, ""
    for split in (split for split in stage.environment.splits if split != "train"):
        drawn = stage.draw(split, number, within_s=stage.seconds_left / 8)
        tested = [Body.of(each) for each in drawn]
        for at, view in enumerate(views):
            if at > 3 and stage.is_late:
                break
            share, example = _beyond_chance(view, seen, again, tested)
            if share > worst and example is not None:
                worst, told = (
                    share,
                    f"{share:.0%} of the {split} tasks are training tasks" + ("" if at in (0, 2) else " but for a number or a word"),
                )
                cases.append(Case(what=f"{told}, such as this one", where=drawn[example][0].id))
        share, example = _known(seen, tested)
        if share > max(worst, limits.OVERLAP) and example is not None:
            worst, told = share, f"{share:.0%} of the {split} tasks are training tasks"
            cases.append(Case(what=f"{told}, such as this one", where=drawn[example][0].id))
    return Gate(
        name="overlap", value=round(worst, 4), limit=limits.OVERLAP, holds=worst <= limits.OVERLAP,
        found=told or f"no held-out or structural task is among {len(train)} training tasks more often than chance explains",
        remedy="mix the split's name into the random seed, or give each split its own part of the data",
    )  # fmt: skip


def _beyond_chance(view: View, seen: Sequence[Body], again: Sequence[Body], tested: Sequence[Body]) -> tuple[float, int | None]:
    """By how much more often a tested task is among those seen than another training task is; 0 when luck can explain it."""
    known = {view(body) for body in seen}
    hits = [at for at, body in enumerate(tested) if view(body) in known]
    by_chance = sum(view(body) in known for body in again)
    if not hits or not again or not differs(len(hits), len(tested), by_chance, len(again)):
        return 0.0, None
    return max(len(hits) / len(tested) - by_chance / len(again), 0.0), hits[0]


def _known(seen: Sequence[Body], tested: Sequence[Body]) -> tuple[float, int | None]:
    """The share that is among those seen, of tasks whose prompt alone says which task it is: these can be learned by heart."""
    by_prompt: dict[object, set[tuple[Body, int]]] = defaultdict(set)
    for body in seen:
        by_prompt[body.prompt].add((body, body.seed))
    hits = [at for at, body in enumerate(tested) if by_prompt.get(body.prompt) == {(body, body.seed)}]
    return (len(hits) / len(tested), hits[0]) if len(hits) >= 5 else (0.0, None)


def _places(bodies: Sequence[Body]) -> list[int]:
    """Where prompts differ, the commonest length of prompt alone."""
    length = Counter(len(body.prompt) for body in bodies).most_common(1)[0][0] if bodies else 0
    alike = [body.prompt for body in bodies if len(body.prompt) == length]
    return [at for at in range(2, length) if len({prompt[at] for prompt in alike}) > 1][:_MOST_PLACES]


def duplicates(solved: Sequence[Episode], cases: list[Case]) -> Gate:
    """Solved training tasks that say, show and want the same but for their digits, or for one word of the prompt."""
    tasks = [_Shown.of(episode) for episode in solved if episode.task.split == "train"]
    views: list[Callable[[_Shown], object]] = [lambda shown: shown.without_digits()]
    length = Counter(len(task.prompt) for task in tasks).most_common(1)[0][0] if tasks else 0
    alike = [task.prompt for task in tasks if len(task.prompt) == length]
    views += [_Shown.without_word(at) for at in [at for at in range(length) if len({p[at] for p in alike}) > 1][:_MOST_PLACES]]
    worst, example = 0.0, ""
    for view in views:
        classes: dict[object, list[_Shown]] = defaultdict(list)
        for task in tasks:
            classes[view(task)].append(task)
        same = [each for each in classes.values() if len(each) >= _SAME and len({one.answer for one in each}) == 1 and _pretends(each)]
        share = sum(map(len, same)) / max(len(tasks), 1)
        if share > worst:
            worst, example = (
                share,
                f"{len(same[0])} training tasks are one and the same but for a number or a name: {same[0][0].id}, {same[0][1].id}",
            )
    holds = worst <= limits.DUPLICATES
    if not holds:
        cases.append(Case(what=example))
    return Gate(
        name="duplicates", value=round(worst, 4), limit=limits.DUPLICATES, holds=holds,
        found=example if not holds else f"{worst:.0%} of {len(tasks)} training tasks have twins that differ in a number or a name only",
        remedy="draw what matters afresh for every task, not a serial number",
    )  # fmt: skip


def _pretends(same: Sequence[_Shown]) -> bool:
    """A small set of tasks that repeats openly is fair; one whose repetitions look new is not."""
    return len({one.prompt for one in same}) > 0.6 * len(same)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What a solved episode said, showed and was answered."""

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
        return cls(id=episode.task.id, prompt=tuple(_tokens(texts)), seen=tuple(_tokens(seen)), answer=answer or calls)

    def without_digits(self) -> object:
        return tuple(tuple(re.sub(r"\d+", "#", token) for token in tokens) for tokens in (self.prompt, self.seen))

    @staticmethod
    def without_word(place: int) -> Callable[[_Shown], object]:
        def view(shown: _Shown) -> object:
            if place >= len(shown.prompt):
                return shown
            word = shown.prompt[place]
            return tuple(tuple("_" if token == word else token for token in tokens) for tokens in (shown.prompt, shown.seen))

        return view
