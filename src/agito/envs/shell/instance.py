"""One latent shell task: a file tree, the question, missing tools, and the timeout rate.

Two families. *find*: which value does a key have; lines marked `old` are stale, `@other` points to another
key. *repair*: make `./.check` pass; it reports one broken rule at a time, and finally a word to submit. A
pure function of (split, family, level, seed) and of the words: the same tasks in every vocabulary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from agito.envs.shell.words import TERSE, Words

FAMILIES = ("find", "repair")
LEVELS = (1, 2, 3, 4, 5)
SPLITS = ("train", "heldout", "structural")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The parameters of a level; probabilities are per task unless stated otherwise."""

    dirs: int  # 0: all files at the top
    files: int  # per directory
    lines: int  # per file, including unrelated ones
    hops: tuple[int, ...]  # find: one of these numbers of pointers
    stale: float  # for each key on the way, a stale line besides the live one
    missing: float = 0.35  # the family's main tool is missing: the fallback is needed
    timeout: float  # per command of any kind
    faults: tuple[int, ...]  # repair: one of these numbers of broken rules
    named: float  # repair: the check names the file, per rule
    same: float  # repair: the rule says "same as another key", per rule
    turns: int  # limit, well above the longest honest solution
    tokens: int  # limit of the context


SHAPES: dict[int, Shape] = {
    1: Shape(
        dirs=0,
        files=3,
        lines=2,
        hops=(0,),
        stale=0.5,
        timeout=0.1,
        faults=(1, 2),
        named=1.0,
        same=0.0,
        turns=14,
        tokens=256,
    ),
    2: Shape(
        dirs=2,
        files=2,
        lines=2,
        hops=(0, 1),
        stale=0.5,
        timeout=0.1,
        faults=(1, 2),
        named=0.5,
        same=0.0,
        turns=18,
        tokens=320,
    ),
    3: Shape(
        dirs=2,
        files=2,
        lines=3,
        hops=(0, 1, 2),
        stale=0.5,
        timeout=0.1,
        faults=(1, 2),
        named=0.5,
        same=0.2,
        turns=24,
        tokens=384,
    ),
    4: Shape(
        dirs=3,
        files=2,
        lines=3,
        hops=(1, 2),
        stale=0.6,
        timeout=0.15,
        faults=(2,),
        named=0.3,
        same=0.5,
        turns=28,
        tokens=640,
    ),
    5: Shape(
        dirs=3,
        files=3,
        lines=3,
        hops=(1, 2, 3),
        stale=0.6,
        timeout=0.2,
        faults=(2, 3),
        named=0.2,
        same=0.6,
        turns=36,
        tokens=896,
    ),
}

# By level: how often that other key is one that training searches for but never repairs.
_READ_ONLY = {4: 0.4, 5: 0.4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Key `key` in file `path` must have value `value`; the check names the key `same_as` instead of the
    value if it is set."""

    path: str
    key: str
    value: str
    same_as: str | None
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    words: Words
    family: str
    level: int
    files: dict[str, tuple[str, ...]]  # path → lines
    target: str = ""  # find: the key asked for
    answer: str = ""  # find: the deciding line, `key=value`
    rules: tuple[Rule, ...] = ()  # repair: the broken ones, in the order of the check
    receipt: str = ""  # repair: the check's final word
    salt: int = 0  # repair: of the check's hashes
    missing: tuple[str, ...] = ()
    timeout: float = 0.0

    @property
    def tree(self) -> dict[str, str]:
        return {path: self.words.text(path, lines) for path, lines in self.files.items()}

    @property
    def repaired(self) -> dict[str, str]:
        """The tree as it should be at the end."""
        words, fixed = self.words, dict(self.files)
        for rule in self.rules:
            start, right = (
                words.start(rule.path, rule.key),
                words.line(rule.path, rule.key, rule.value),
            )
            fixed[rule.path] = tuple(right if line.startswith(start) else line for line in fixed[rule.path])
        return {path: words.text(path, lines) for path, lines in fixed.items()}

    def complaint(self, rule: Rule) -> str:
        value = self.words.pointer(rule.same_as) if rule.same_as else rule.value
        return self.words.complaint((rule.path if rule.named else "", rule.key, value))


def generate(*, split: str, family: str, level: int, seed: int, words: Words = TERSE) -> Instance:
    """The structural split repairs keys that training only searches for, and searches for keys that training
    only repairs; chains are longest, and the fallback is needed most often."""
    rng = random.Random(f"shell/{split}/{family}/{level}/{seed}")
    shape, structural = SHAPES[level], split == "structural"
    paths = _paths(rng, shape, words)
    other = words.only["repair" if family == "find" else "find"]
    pool = list(other if structural else [key for key in words.keys if key not in other])
    rng.shuffle(pool)
    others = [key for key in words.keys if key not in pool]
    rng.shuffle(others)
    board = _Board(rng, paths, shape.stale, words)
    missing = rng.random() < (0.6 if structural else shape.missing)
    if family == "find":
        hops = max(shape.hops) if structural else rng.choice(shape.hops)
        chain, answer = [pool.pop() for _ in range(hops + 1)], rng.choice(words.values)
        for key, value in zip(chain, [words.pointer(key) for key in chain[1:]] + [answer], strict=True):
            board.put(key, value)
        _bystanders(board, pool[:2] + others, shape)
        return Instance(
            words=words,
            family=family,
            level=level,
            files=board.done(),
            target=chain[0],
            answer=f"{chain[-1]}={answer}",
            missing=("grep",) if missing else (),
            timeout=shape.timeout,
        )
    rules: list[Rule] = []
    for _ in range(max(shape.faults) if structural else rng.choice(shape.faults)):
        key, wrong, right = pool.pop(), *rng.sample(words.values, 2)
        same = None
        if rng.random() < shape.same:
            is_read_only = level in _READ_ONLY and not structural and rng.random() < _READ_ONLY[level]
            same = (others if is_read_only else pool).pop()
        path = board.put(key, wrong)
        if same:
            board.put(same, right)
        rules.append(Rule(path=path, key=key, value=right, same_as=same, named=rng.random() < shape.named))
    _bystanders(board, pool[:2] + others, shape)
    files, salt = board.done(), rng.randrange(1 << 20, 1 << 30)
    return Instance(
        words=words,
        family=family,
        level=level,
        files=files,
        rules=tuple(rules),
        receipt=rng.choice(words.values),
        salt=salt,
        missing=("sed",) if missing else (),
        timeout=shape.timeout,
    )


def _paths(rng: random.Random, shape: Shape, words: Words) -> list[str]:
    names = list(words.names)
    rng.shuffle(names)
    if not shape.dirs:
        return [words.path(name) for name in names[: shape.files]]
    dirs = [names.pop() for _ in range(shape.dirs)]
    return [words.path(folder, names.pop()) for folder in dirs for _ in range(shape.files)]


def _bystanders(board: _Board, keys: list[str], shape: Shape) -> None:
    for key in keys:
        if board.size >= shape.lines * len(board.lines):
            return
        board.put(key, board.rng.choice(board.words.values))


class _Board:
    """Files being filled: every live line goes to a file of its own choice, stale lines anywhere."""

    def __init__(self, rng: random.Random, paths: list[str], stale: float, words: Words) -> None:
        self.rng, self.stale, self.words = rng, stale, words
        self.lines: dict[str, list[str]] = {path: [] for path in paths}

    @property
    def size(self) -> int:
        return sum(len(lines) for lines in self.lines.values())

    def put(self, key: str, value: str) -> str:
        path = self.rng.choice(list(self.lines))
        self.lines[path].append(self.words.line(path, key, value))
        if self.rng.random() < self.stale:
            there = self.rng.choice(list(self.lines))
            line = self.words.line(there, key, self.rng.choice(self.words.values))
            self.lines[there].append(self.words.stale(line))
        return path

    def done(self) -> dict[str, tuple[str, ...]]:
        for lines in self.lines.values():
            self.rng.shuffle(lines)
        return {path: tuple(lines) for path, lines in self.lines.items()}
