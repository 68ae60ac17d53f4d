"""A function task's test cases and its reference's answers, on the trusted side only."""

from __future__ import annotations

import builtins
import functools
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType

from agito.grading.artefacts import Artefacts
from agito.grading.case_snippet import CallEnd
from agito.grading.plain_json import check, same, shown
from agito.types import Json

_REFERENCE = "agito_reference"  # name of the module in which a reference runs
_BASES = (Exception, BaseException)  # bases of every exception: they identify nothing
# Exceptions that no reference raises on purpose: it, or `hidden`, is broken.
_MISTAKES = (
    AssertionError,
    AttributeError,
    ImportError,
    MemoryError,
    NameError,
    RecursionError,
    SyntaxError,
    SystemError,
    SystemExit,
)
_ADMITTED_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTask:
    """One function to write. `reference` is trusted source text that defines it and never enters a box."""

    name: str
    statement: str
    entry: str  # path and name, such as "solution.py:solve" or "shop/prices.py:total"
    reference: str
    visible: tuple[tuple[Json, ...], ...]  # argument lists shown in the statement or the visible tests
    # draws argument lists, fresh for each grade seed
    hidden: Callable[[random.Random], Sequence[Sequence[Json]]]
    artefacts: Artefacts = field(default_factory=Artefacts)
    tolerance: float = 0.0  # between floats: relative, absolute below 1; 0 means exact
    case_seconds: float = 2.0  # CPU seconds for one call and everything it starts

    def __post_init__(self) -> None:
        path, _, function = self.entry.partition(":")
        if (
            not path.endswith(".py")
            or not function.isidentifier()
            or not all(part.isidentifier() for part in path[:-3].split("/"))
        ):
            raise ValueError(f"entry={self.entry!r}: write FILE.py:FUNCTION, such as solution.py:solve")
        if not self.case_seconds > 0:
            raise ValueError(f"case_seconds={self.case_seconds}: a call needs some time")

    @property
    def path(self) -> str:
        return self.entry.partition(":")[0]

    @property
    def function(self) -> str:
        return self.entry.partition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input and the reference's answer: a value, or the closest builtin class of the exception raised."""

    arguments: tuple[Json, ...]
    told: CallEnd
    expected: Json
    is_visible: bool


def expected(task: FunctionTask, arguments: Sequence[Json], *, is_visible: bool = False) -> Case:
    """Runs the reference, in this process. Raises `ValueError` if it or its inputs do not suit a function
    task.
    """
    where = f"task {task.name!r}, input {shown(list(arguments))}"
    listed = tuple(check(each, where) for each in arguments)
    given = tuple(check(each, where) for each in arguments)
    function, module = _reference(task.reference, task.function)
    sys.modules[_REFERENCE] = module
    try:
        value = function(*given)
    except _MISTAKES as error:
        raise ValueError(
            f"{where}: the reference raises {type(error).__name__}: {error}; mend it, or draw other inputs"
        ) from error
    except Exception as error:  # an exception is the reference's way to say that one is expected
        if isinstance(error, TypeError) and isinstance(function, FunctionType) and _is_before(error):
            raise ValueError(f"{where}: the reference cannot be called with it: {error}") from error
        return Case(
            arguments=listed,
            told=CallEnd.RAISES,
            expected=_closest(type(error)).__name__,
            is_visible=is_visible,
        )
    finally:
        sys.modules.pop(_REFERENCE, None)
    return Case(
        arguments=listed,
        told=CallEnd.VALUE,
        expected=check(value, f"{where}, the reference's answer"),
        is_visible=is_visible,
    )


def is_expected(name: Json, wanted: Json) -> bool:
    """Whether the builtin exception `name` is one of `wanted`. A bare `Exception` matches only itself."""
    raised, asked = _builtin(name), _builtin(wanted)
    if raised is None or asked is None:
        return False
    return raised is asked or (asked not in _BASES and issubclass(raised, asked))


def draw(task: FunctionTask, *, secret: str, grade_seed: int) -> list[Case]:
    """Visible and hidden cases, shuffled. A pure function of its arguments."""
    return _drawn(task, secret, grade_seed)


def admit(task: FunctionTask, *, secret: str) -> None:
    """Raises `ValueError` for a task that cannot be judged.

    Inputs and answers must be plain values, the reference must accept its inputs and answer within the task's
    time limit, and drawing twice with one seed must give the same cases and answers.
    """
    for grade_seed in (0, *random.Random(secret).sample(range(1, 1 << 30), _ADMITTED_SEEDS - 1)):
        cases, again = (_drawn(task, secret, grade_seed, limit_s=task.case_seconds) for _ in range(2))
        if [case.arguments for case in cases] != [case.arguments for case in again]:
            raise ValueError(
                f"task {task.name!r}: `hidden` does not draw the same twice; use the generator that it is "
                "given"
            )
        for one, two in zip(cases, again, strict=True):
            if one.told is not two.told or not same(one.expected, two.expected):
                raise ValueError(
                    f"task {task.name!r}, input {shown(list(one.arguments))}: the reference does not "
                    "answer the same twice"
                )


def _drawn(task: FunctionTask, secret: str, grade_seed: int, *, limit_s: float = math.inf) -> list[Case]:
    rng = random.Random(f"grade/{task.name}/{secret}/{grade_seed}")
    cases = [_timed(task, arguments, limit_s, is_visible=True) for arguments in task.visible]
    cases += [_timed(task, arguments, limit_s, is_visible=False) for arguments in task.hidden(rng)]
    if all(case.is_visible for case in cases):
        raise ValueError(
            f"task {task.name!r}: `hidden` draws no case, so that the visible ones could be learned by heart"
        )
    rng.shuffle(cases)
    return cases


def _timed(task: FunctionTask, arguments: Sequence[Json], limit_s: float, *, is_visible: bool) -> Case:
    began = time.thread_time()
    case = expected(task, arguments, is_visible=is_visible)
    spent = time.thread_time() - began
    if spent > limit_s:
        where = f"task {task.name!r}, input {shown(list(arguments))}"
        raise ValueError(
            f"{where}: the reference needs {spent:.2g} s of the processor; a call has {limit_s:g}"
        )
    return case


def _is_before(error: BaseException) -> bool:
    """Whether it was raised before the function's body began."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def _closest(kind: type[BaseException]) -> type[BaseException]:
    return next(each for each in kind.__mro__ if getattr(builtins, each.__name__, None) is each)


def _builtin(name: Json) -> type[BaseException] | None:
    found = getattr(builtins, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    return compile(source, "<reference>", "exec", dont_inherit=True)


def _reference(source: str, function: str) -> tuple[Callable[..., object], ModuleType]:
    """Raises `ValueError` if the source defines no such function."""
    module = ModuleType(_REFERENCE)
    sys.modules[_REFERENCE] = module  # dataclasses look up the types of their fields there
    try:
        exec(_compiled(source), module.__dict__)
    finally:
        sys.modules.pop(_REFERENCE, None)
    found: object = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"the reference defines no function {function!r}")
    return found, module
