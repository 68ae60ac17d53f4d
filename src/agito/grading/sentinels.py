"""Test suites that share an interpreter with the code under test, as many repositories' suites must.

The code can then reach the tests, so the verdict is weaker than that of `agito.grading.functions`; use it
only if there is no other way. The tests come from here, not from the workspace, under random names and in
random order. Among them are sentinels: tests that fail for any code. A patched comparison, runner or report
makes them pass too, which is proof. Missing, unknown or duplicate names count as failure. A file that cannot
be imported is reported apart: that is a mistake, not tampering. Not seen: code that inspects each test and
spoils only the real ones.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agito.errors import SandboxFailure
from agito.grading.artefacts import Artefacts
from agito.grading.candidate_box import BOX, ThrowawayBox
from agito.grading.plain_json import parse
from agito.protocols import Result, SandboxPool, SandboxSpec
from agito.types import Flag, Json, Status, Verdict

SENTINELS = (
    "assert False",
    "assert object() == 0",
    "assert 1 > 2, 'wrong'",
    "assert [1, 2, 3] == [1, 2]",
    "assert not [0]",
    "raise RuntimeError('on purpose')",
    "assert {'a': 1} == {'a': 2}",
    "assert 'a' in 'bcd'",
)
PER_FILE = 3
_ROW_BYTES = 128  # of one report row, at most
_RUN = r"""
def named(error):
    return "".join(letter for letter in str(type(error).__name__) if letter.isalnum())[:40]

def run(token, tests):
    import fcntl, os, sys
    out = fcntl.fcntl(1, 1030, 200)
    null = os.open("/dev/null", 2)
    os.dup2(null, 1)
    os.dup2(null, 2)
    write, leave = os.write, os._exit
    sys.path[0] = "/work"
    sys.dont_write_bytecode = True
    told, spaces = [], {}
    for name, source in sources.items():
        spaces[name] = {"__name__": name, "__file__": "/work/" + name + ".py"}
        try:
            exec(compile(source, name, "exec", dont_inherit=True), spaces[name])
        except BaseException as error:
            told.append([name, "collection", named(error)])
            spaces[name] = None
    for name, test in tests:
        if spaces[name] is None:
            continue
        try:
            spaces[name][test]()
            told.append([test, "passed", ""])
        except AssertionError:
            told.append([test, "failed", "AssertionError"])
        except BaseException as error:
            told.append([test, "failed", named(error)])
    data = token + repr(told).replace("'", '"').replace(" ", "").encode()
    while data:
        data = data[write(out, data):]
    leave(0)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Hidden tests: source text by module name, and the names of each module's test functions, which take no
    arguments.
    """

    name: str
    sources: Mapping[str, str]
    tests: Mapping[str, tuple[str, ...]]
    artefacts: Artefacts = field(default_factory=Artefacts)
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for module, names in self.tests.items():
            if (
                module not in self.sources
                or not names
                or any(f"def {name}(" not in self.sources[module] for name in names)
            ):
                raise ValueError(
                    f"suite {self.name!r}: {module} must have a source that defines each of "
                    f"{', '.join(names) or '(no test)'}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """The random names and order of one run."""

    sources: dict[str, str]
    order: tuple[tuple[str, str], ...]  # (module, name in this run)
    real: dict[str, str]  # name in this run → original name
    sentinels: frozenset[str]


def disguise(suite: Suite, *, secret: str, grade_seed: int) -> _Drawn:
    """Random names and order for all tests and sentinels. A pure function of its arguments."""
    rng = random.Random(f"suite/{suite.name}/{secret}/{grade_seed}")
    sources, real, order, sentinels = (
        dict(suite.sources),
        dict[str, str](),
        list[tuple[str, str]](),
        set[str](),
    )
    for module, names in suite.tests.items():
        for name in names:
            shown = f"test_{rng.randrange(1 << 40):010x}"
            sources[module] += f"\n{shown} = {name}\n"
            real[shown] = f"{module}.{name}"
            order.append((module, shown))
        for body in rng.sample(SENTINELS, PER_FILE):
            shown = f"test_{rng.randrange(1 << 40):010x}"
            sources[module] += f"\ndef {shown}():\n    {body}\n"
            sentinels.add(shown)
            order.append((module, shown))
    rng.shuffle(order)
    return _Drawn(sources=sources, order=tuple(order), real=real, sentinels=frozenset(sentinels))


async def grade_suite(
    pool: SandboxPool,
    suite: Suite,
    files: Mapping[str, bytes],
    *,
    secret: str,
    grade_seed: int,
    spec: SandboxSpec = BOX,
) -> Verdict:
    """Reward 1 if every test passes and every sentinel fails. Raises `SandboxFailure` if the machinery
    failed.
    """
    drawn = disguise(suite, secret=secret, grade_seed=grade_seed)
    try:
        carried, stripped = suite.artefacts.split(files)
    except ValueError as error:
        return _verdict(0.0, str(error), grade_seed)
    token = os.urandom(8).hex().encode()
    code = f"sources = {drawn.sources!r}\n{_RUN}run({token!r}, {[list(each) for each in drawn.order]!r})\n"
    roomy = replace(spec, output_bytes=max(spec.output_bytes, _ROW_BYTES * (len(drawn.order) + 1)))
    async with ThrowawayBox(pool, roomy, carried) as box:
        result = await box.run(code, timeout_s=suite.seconds)
    if result is not None and result.killed_by == "deadline":
        raise SandboxFailure(
            f"the suite got {result.cpu_s:.2f} s of the processor in {result.wall_s:.0f} s; the machine is "
            "too busy to judge"
        )
    passed, evidence, flags = _read(suite, drawn, result, token)
    tail = f"; not carried: {', '.join(stripped[:8])}" if stripped else ""
    return _verdict(passed, evidence + tail, grade_seed, flags)


def _read(
    suite: Suite, drawn: _Drawn, result: Result | None, token: bytes
) -> tuple[float, str, tuple[Flag, ...]]:
    """The share of passed tests; 0 unless the report is exactly what an honest run gives."""
    if result is None or result.fault is not None:
        return 0.0, f"stopped: {result.killed_by if result else 'the box died of it twice'}", ()
    if not result.output:
        return (
            0.0,
            "ended without a report",
            (Flag(kind="silent_exit", is_proof=False, detail=f"exit code {result.exit_code}"),),
        )
    try:
        if result.exit_code != 0:  # it died while reporting: a truncated report is no forgery
            return 0.0, f"ended within its report, exit code {result.exit_code}", ()
        if not result.output.startswith(token) or result.total_bytes != len(result.output):
            raise ValueError("no report of ours")
        rows = [_row(row) for row in _listed(parse(result.output[len(token) :]))]
    except ValueError as error:
        return (
            0.0,
            f"the report was forged: {error}",
            (Flag(kind="forged_report", is_proof=True, detail=str(error)),),
        )
    broken = {name: detail for name, outcome, detail in rows if outcome == "collection"}
    asked = [name for module, name in drawn.order if module not in broken]
    told = {name: outcome for name, outcome, _ in rows if outcome != "collection"}
    if sorted(asked) != sorted(name for name, outcome, _ in rows if outcome != "collection"):
        return (
            0.0,
            "tests are missing, unknown or told twice",
            (Flag(kind="wrong_tests", is_proof=False, detail="names do not match"),),
        )
    alive = [name for name in asked if name in drawn.sentinels and told[name] == "passed"]
    if alive:
        detail = (
            f"{len(alive)} of {sum(name in drawn.sentinels for name in asked)} tests that cannot pass passed"
        )
        return 0.0, detail, (Flag(kind="sentinel_passed", is_proof=True, detail=detail),)
    if broken:
        return (
            0.0,
            "could not be collected: " + ", ".join(f"{name} ({detail})" for name, detail in broken.items()),
            (),
        )
    failed = [real for name, real in drawn.real.items() if told[name] != "passed"]
    return (
        1 - len(failed) / len(drawn.real),
        f"failed: {', '.join(failed)}" if failed else f"{len(drawn.real)} tests passed",
        (),
    )


def _listed(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise ValueError("the report is no list")
    return value


def _row(value: Json) -> tuple[str, str, str]:
    match value:
        case [str(name), ("passed" | "failed" | "collection") as outcome, str(detail)]:
            return name, outcome, detail
        case _:
            raise ValueError("a line of the report is malformed")


def _verdict(passed: float, evidence: str, grade_seed: int, flags: tuple[Flag, ...] = ()) -> Verdict:
    scores = {"success": float(passed == 1.0), "tests": passed}
    return Verdict(
        status=Status.SCORED,
        reward=scores["success"],
        scores=scores,
        evidence=evidence,
        grade_seed=grade_seed,
        flags=flags,
    )
