"""How the coding tasks are written: names, lines of Python and comments, and how scripts read and edit them.

A vocabulary has as many names as every other, so that one seed draws the same latent task in each. The terse
one has short names, one token each, and no blanks within a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agito.envs.code.steps import WHEN, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The terse vocabulary's way of writing; another one overrides it."""

    names: tuple[str, ...]  # of functions
    argument: str
    between: str  # lines of one body in an edit
    prose: tuple[str, str]  # the natural prompt of a bug and of a missing body, with a place for `name`

    def code(self, step: Step) -> str:
        """One line of Python."""
        return step.code

    def comment(self, step: Step) -> str:
        return step.words

    def imports(self, names: Sequence[str]) -> str:
        return "".join(f"from {name} import {name}\n" for name in names)

    def function(self, name: str, lines: Sequence[str], steps: Sequence[Step], *, beside: bool) -> str:
        """The whole function. `beside`: a comment above every line; otherwise one for all."""
        says = [self.comment(step) for step in steps]
        head = "" if beside or not steps else f"# {', '.join(says)}\n"
        body = "".join(f" {line}\n" for line in commented(lines, says if beside else []))
        return f"{head}def {name}(x):\n{body} return x\n"

    def test(self, name: str, cases: str) -> str:
        return (
            f"from {name} import {name}\n\n\ndef test_{name}():\n    for x, want in ({cases}):\n        "
            f"got = {name}(x)\n"
            f'        assert got == want, f"{name} {{x}} = {{got}} want {{want}}"\n'
        )

    def readme(self, name: str) -> str:
        return f"{name}: steps on a number\n"

    def read(self, text: str) -> tuple[list[str], list[str]]:
        """The lines of a function's body, and the lines that its comments ask for."""
        lines = [line.strip() for line in text.splitlines()]
        wanted = [
            self.meaning(words) for line in lines if line.startswith("# ") for words in line[2:].split(", ")
        ]
        found = [part for line in lines if line == "pass" or line.startswith("x") for part in line.split(";")]
        return found, wanted

    def meaning(self, words: str) -> str:
        """`over 5 add 2` → `x+=2*(x>5)`."""
        match words.split():
            case ["do", call]:
                return Step(word="", call=call).code
            case [when, limit, word, number] if when in WHEN:
                return Step(word=word, number=int(number), when=when, limit=int(limit)).code
            case [word, number]:
                return Step(word=word, number=int(number)).code
            case _:
                return words

    @property
    def mend(self) -> str:
        """Rewrites every function from its comments by program, unread: the best that is possible without
        looking."""
        return _MEND


def called(text: str) -> list[str]:
    """The functions that a file imports."""
    return re.findall(r"^from (\w+) import", text, re.MULTILINE)


def commented(lines: Sequence[str], says: Sequence[str]) -> list[str]:
    """Each line below its comment, or all below all where they are not as many."""
    above = [f"# {each}" for each in says]
    if len(above) == len(lines):
        return [each for pair in zip(above, lines, strict=True) for each in pair]
    return [*above, *lines]


_MEND = r"""cat >/tmp/m.py <<'E'
import glob, re
plain = {"add": "x+={}", "sub": "x-={}", "mul": "x*={}", "mod": "x%={}", "most": "x=min(x,{})", "least": "x=max(x,{})"}
def code(step):
    *when, word, number = step.split()
    if word == "do":
        return f"x={number}(x)"
    return plain[word].format(number) + (f"*(x{'>' if when[0] == 'over' else '<'}{when[1]})" if when else "")
for path in glob.glob("*.py"):
    text = open(path).read()
    steps = [step for line in re.findall("# (.*)", text) for step in line.split(", ")]
    lines = [*re.findall("from .*", text), f"def {path[:-3]}(x):", *(" " + code(step) for step in steps), " return x"]
    open(path, "w").write("\n".join(lines))
E
python3 /tmp/m.py"""  # noqa: E501

_MEANING = (
    "Words such as `over 5 add 2` mean: if x is over 5, add 2; `most 7`: at most 7; `do lum`: call the "
    "function lum on x. The tests below "
    "`tests/` are incomplete: you will be judged by other inputs. Edit the files, run `test`, and submit "
    "the number beside its `ok`."
)
TERSE = Words(
    names=("kap", "lum", "vin", "rok", "bif", "tol", "mur", "gax", "dov", "fen", "wip", "zun"),
    argument="x",
    between=";",
    prose=(
        "The Python function `{name}` in `{name}.py`, or one that it calls, does not do what its "
        f"comment says. Mend all of them. {_MEANING}",
        "The Python function `{name}` in `{name}.py`, or one that it calls, is not written: `pass` "
        f"stands there. Write them all. {_MEANING}",
    ),
)
