"""Shared parts of the contract suites: a rule is a test method whose failure names the rule and the remedy.

A suite is a class. In a pytest module, subclass it under a name that starts with `Test` and override `make`
to say what is tested; without pytest, call `violations()`. Nothing here imports pytest, and the asynchronous
rules need no plugin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Protocol, TypeVar
from unittest import SkipTest

import anyio


class Violation(AssertionError):
    """A rule of a contract is broken: names the rule, the finding and the remedy."""


class Unmet(Exception):
    """Raised inside a rule; `rule` turns it into a `Violation`. `remedy`: in the place of the rule's own."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.remedy = remedy


class Suite(Protocol):
    """What `rule` needs of the class whose method it decorates."""

    deadline_s: float


S = TypeVar("S", bound=Suite)
SENTENCES: dict[str, str] = {}  # the sentence of every rule, by method name


def rule(remedy: str, *, says: str = "") -> Callable[[Callable[[S], Awaitable[None]]], Callable[[S], None]]:
    """Turns an asynchronous method `test_...` into a test that reports the rule and the remedy. The rule's
    sentence is the method's name, or `says` if that needs punctuation.
    """

    def decorate(method: Callable[[S], Awaitable[None]]) -> Callable[[S], None]:
        sentence = says or method.__name__.removeprefix("test_").replace("_", " ")
        SENTENCES[method.__name__] = sentence

        @wraps(method)
        def run(self: S) -> None:
            async def body() -> None:
                with anyio.fail_after(self.deadline_s):
                    await method(self)

            try:
                anyio.run(body)
            except Unmet as unmet:
                raise Violation(f"{sentence}: {unmet}. Remedy: {unmet.remedy or remedy}.") from None
            except TimeoutError:
                raise Violation(
                    f"{sentence}: no answer within {self.deadline_s:g} s. Remedy: {remedy}."
                ) from None

        return run

    return decorate


def require(condition: bool, found: str, remedy: str = "") -> None:
    """Raises `Unmet` with the finding, and a `remedy` if not the rule's own, unless `condition` holds."""
    if not condition:
        raise Unmet(found, remedy)


class Contract:
    """The base of every suite."""

    deadline_s: float = 60.0  # per rule

    @classmethod
    def rules(cls) -> tuple[str, ...]:
        """Names of the rule methods, in alphabetical order."""
        return tuple(sorted(name for name in dir(cls) if name.startswith("test_")))

    def violations(self) -> dict[str, Exception]:
        """Checks every rule; maps broken rules to what their check raised. Empty if the contract holds."""
        found: dict[str, Exception] = {}
        for name in self.rules():
            try:
                getattr(self, name)()
            except SkipTest:
                continue
            except Exception as error:  # anything that the tested code raises is a finding
                found[name] = error
        return found
