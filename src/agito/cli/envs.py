"""`agito envs check` and `agito envs new`: the standard's rules without pytest, and an environment of your
own to begin with.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from shlex import quote

import typer
from rich.text import Text

from agito.cli.exit_codes import say
from agito.cli.terminal import out
from agito.envs import bundled, load
from agito.errors import AgitoError, BadRecipe, NotAdmitted
from agito.protocols import Environment, Renderer, Unscripted
from agito.record.writable import require_folder
from agito.rollout import reward_range
from agito.testing import ByteRenderer, EnvironmentContract, Violation
from agito.testing.contract import SENTENCES
from agito.testing.environment.tasks import TaskRules
from agito.testing.environment.worlds import WorldRules
from agito.types import Dialect, EpisodeArtifacts, Fault, Target, Verdict

_SCRIPTED = (
    "test_a_fork_with_fresh_noise_can_still_be_solved",
    "test_an_environment_says_what_it_consists_of",
    "test_every_solution_earns_full_marks_whatever_faults_it_meets",
    "test_negative_controls_stay_at_the_floor",
    "test_nothing_of_the_target_stands_in_the_task",
    "test_tasks_are_labelled_truthfully_and_their_ids_are_unique",
    "test_the_demonstrator_is_deterministic_given_its_seed",
    "test_the_demonstrators_success_falls_with_its_skill",
)
_PURE = "test_a_verdict_is_a_pure_function_of_what_was_captured"
_RANGE = "test_every_reward_lies_in_the_declared_range"


def check_environment(name: str) -> None:
    """Every rule in turn. Ends with the exit code of `NotAdmitted` when one does not hold."""
    environment = load(name)
    console = out()

    graded: list[Verdict] = []  # in the rule that is being checked
    refused: list[Exception] = []  # what `grade` raised in it

    class Suite(EnvironmentContract):
        full_reward = reward_range(environment)[1]

        async def make(self) -> Environment:
            return _watched(load(name), graded, refused)

        def renderers(self) -> Sequence[Renderer]:
            return [ByteRenderer(dialect) for dialect in Dialect]

    broken, before = 0, dict[tuple[str, ...], str]()
    rules = [rule for rule in Suite.rules() if rule not in _of_scripts(environment)]
    for rule in sorted(rules, key=lambda rule: (rule != _PURE, rule != _RANGE)):  # what others follow from
        sentence = SENTENCES[rule]
        graded.clear()
        refused.clear()
        try:
            getattr(Suite(), rule)()
        except Exception as error:  # whatever the environment raises is a finding
            broken += 1
            console.print(Text.assemble(("✗ ", "red"), (sentence, "bold")))
            if refused and isinstance(error, Violation):  # the rest follows from it
                error = refused[0]
            (raised, line), told = _cause(error), _told(error, sentence)
            place = line or _place(error, rule, type(environment))
            # one mistake breaks many rules, and is told once; a wrong scale of rewards breaks all about them
            is_theirs = bool(_frames(error, type(environment)))
            is_scale = (rule == _RANGE or (_RANGE,) in before) and graded and not is_theirs
            cause = (_RANGE,) if is_scale else (raised,) if raised else (place, *told)
            first = before.setdefault(cause, sentence)
            lines = [place, *told] if first == sentence else [f"as above: {first}"]
            for each, style in zip(lines, ["yellow" if first == sentence else "", "", ""], strict=False):
                console.print(Text(f"    {each}", style), soft_wrap=True)
        else:
            console.print(Text.assemble(("✓ ", "green"), sentence))
    if broken:
        console.print(f"\n{broken} of {len(rules)} rules do not hold", style="red", highlight=False)
        raise typer.Exit(NotAdmitted.exit_code)
    console.print(
        Text.assemble(
            ("\n" + name, "green"),
            (" keeps the standard", "green"),
            f". How good it is: agito audit {quote(name)}",
        ),
        highlight=False,
        soft_wrap=True,
    )


def _watched(environment: Environment, graded: list[Verdict], refused: list[Exception]) -> Environment:
    """Notes its verdicts, and what it raises in their place."""
    grade = environment.grade

    async def watching(sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        try:
            verdict = await grade(sealed, target, grade_seed)
        except Exception as error:
            refused.append(error)
            raise
        graded.append(verdict)
        return verdict

    with suppress(AttributeError):  # an instance that takes no attributes is checked all the same
        environment.grade = watching
    return environment


def _of_scripts(environment: Environment) -> tuple[str, ...]:
    """Rules that a set of prompts cannot keep: about scripts, about what only an audit of prompts can judge,
    and about splits that go on for ever.
    """
    return _SCRIPTED if isinstance(environment, Unscripted) else ()


def _cause(error: Exception) -> tuple[str, str]:
    """What the environment raised, whichever the task, and its line where only an episode's verdict has it;
    empty where it raised nothing.
    """
    if not isinstance(error, Violation | AgitoError):
        return f"{type(error).__name__}: {error}", ""
    found = re.search(rf"\b{Fault.ENV}: (?:\w+: )?(\w+: .*?) \(([\w.-]+:\d+)\)", str(error))
    return (found[1], found[2]) if found else ("", "")


def _told(error: Exception, sentence: str) -> list[str]:
    """What was found and what to do, each on a line of its own."""
    if not isinstance(error, Violation):
        return [
            f"{type(error).__name__}: {error}",
            "Remedy: repair what raises here; everything that the policy may do is an event, or a verdict.",
        ]
    found, _, remedy = str(error).removeprefix(f"{sentence}: ").partition(" Remedy: ")
    return [found, f"Remedy: {remedy}"]


def _place(error: Exception, rule: str, environment: type) -> str:
    """The line that raised, in the environment's own file; else where the method begins that the rule is
    about.
    """
    source = inspect.getsourcefile(environment)
    if frames := _frames(error, environment):
        return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"
    method = _method_of(rule)
    code = getattr(getattr(environment, method, None), "__code__", None)
    if code is None or code.co_filename != source:  # it is inherited
        inherits = f", which inherits {method}" if code else ""
        return f"{source}:{_line_of(environment)} in class {environment.__name__}{inherits}"
    return f"{code.co_filename}:{code.co_firstlineno} in {environment.__name__}.{method}"


def _frames(error: Exception, environment: type) -> list[traceback.FrameSummary]:
    """Those in the environment's own file."""
    source = inspect.getsourcefile(environment)
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if source and Path(frame.filename) == Path(source)]


def _line_of(environment: type) -> int:
    try:
        return inspect.findsource(environment)[1] + 1
    except OSError:
        return 1


def _method_of(rule: str) -> str:
    if rule in vars(TaskRules):
        return "task"
    if rule in vars(WorldRules):
        return "open"
    return next(
        (method for method in ("demonstrator", "negative_controls", "solution") if method in rule), "grade"
    ).replace("solution", "solutions")


def new_environment(name: str, into: Path) -> None:
    """Writes NAME.py and test_NAME.py. Raises `BadRecipe` for a name that is none, or when one of them is
    there already.
    """
    if not name.isidentifier() or iskeyword(name) or name != name.lower():
        raise BadRecipe(f"name={name!r}: write a lower-case Python name, such as hidden_number")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    paths = {into / f"{name}.py": "environment.txt", into / f"test_{name}.py": "test.txt"}
    taken = [path for path in paths if path.exists()]
    if taken:
        raise BadRecipe(f"{taken[0]}: already there; choose another name")
    require_folder(into, "--into")
    into.mkdir(parents=True, exist_ok=True)
    if name in bundled():
        say(f"{name} is also the name of an environment of Agito's; yours is {into / name}.py:{class_name}")
    for path, template in paths.items():
        text = (files("agito.envs") / "template" / template).read_text(encoding="utf-8")
        path.write_text(text.replace("NAME", name).replace("CLASS", class_name), encoding="utf-8")
    own = quote(f"{into / name}.py:{class_name}")
    print(  # noqa: T201
        "\n".join(
            [
                f"wrote {into / name}.py and its test. Next:",
                f"  agito envs check {own}",
                f"  agito play {own}",
                f"  agito audit {own}",
                f"  agito train --env {own}",
            ]
        ),
        file=sys.stdout,
    )
