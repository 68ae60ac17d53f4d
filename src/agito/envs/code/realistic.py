"""The coding tasks as modules of a price calculation, with ordinary identifiers, type hints and sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agito.envs.code.steps import Step
from agito.envs.code.words import Words, commented

_CODE = {
    "": "amount = {call}(amount)",
    "add": "amount += {number}",
    "sub": "amount -= {number}",
    "mul": "amount *= {number}",
    "mod": "amount %= {number}",
    "most": "amount = min(amount, {number})",
    "least": "amount = max(amount, {number})",
}
_SAYS = {
    "": "Apply {call}.",
    "add": "Add {number}.",
    "sub": "Subtract {number}.",
    "mul": "Multiply by {number}.",
    "mod": "Take the remainder by {number}.",
    "most": "Keep it at {number} or below.",
    "least": "Keep it at {number} or above.",
}
_WHEN = {"over": ">", "under": "<"}
_CONDITION = re.compile(r"If it is (over|under) (\d+), (.*)")
_MEND = r"""cat >/tmp/m.py <<'E'
import glob, re
plain = {"add": "+= {}", "subtract": "-= {}", "multiply": "*= {}", "take": "%= {}",
         "below": "= min(amount, {})", "above": "= max(amount, {})"}
def code(step):
    *when, says = step.rstrip(".").split(", ")
    words = says.lower().split()
    if words[0] == "apply":
        return f"amount = {words[1]}(amount)"
    line = "amount " + plain[words[-1] if words[0] == "keep" else words[0]].format(re.search(r"\d+", says)[0])
    if when:
        *_, side, limit = when[0].split()
        line += f" if amount {'>' if side == 'over' else '<'} {limit} else 0"
    return line
for path in glob.glob("*.py"):
    text = open(path).read()
    steps = re.findall(r"[A-Z][^.\n]*[.]", text)
    lines = [*re.findall("from .*", text), f"def {path[:-3]}(amount):", *(" " + code(each) for each in steps)]
    open(path, "w").write("\n".join([*lines, " return amount"]))
E
python3 /tmp/m.py"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Realistic(Words):
    """A comment is a sentence, and one for a whole function its docstring."""

    def code(self, step: Step) -> str:
        line = _CODE[step.word].format(number=step.number, call=step.call)
        return line + (f" if amount {_WHEN[step.when]} {step.limit} else 0" if step.when else "")

    def comment(self, step: Step) -> str:
        says = _SAYS[step.word].format(number=step.number, call=step.call)
        return f"If it is {step.when} {step.limit}, {_lower(says)}" if step.when else says

    def imports(self, names: Sequence[str]) -> str:
        return "".join(f"from {name} import {name}\n" for name in names) + ("\n\n" if names else "")

    def function(self, name: str, lines: Sequence[str], steps: Sequence[Step], *, beside: bool) -> str:
        says = [self.comment(step) for step in steps]
        docstring = [] if beside or not steps else [f'"""{" ".join(says)}"""']
        body = [*docstring, *commented(lines, says if beside else []), "return amount"]
        return f"def {name}(amount: int) -> int:\n" + "".join(f"    {line}\n" for line in body)

    def test(self, name: str, cases: str) -> str:
        return (
            f"from {name} import {name}\n\n\ndef test_{name}() -> None:\n"
            f"    for amount, expected in ({cases}):\n"
            f"        result = {name}(amount)\n"
            f'        assert result == expected, f"{name}({{amount}}) is {{result}}, expected {{expected}}"\n'
        )

    def readme(self, name: str) -> str:
        return f"# Price calculation\n\nStart at `{name}`. All amounts are whole numbers.\n"

    def read(self, text: str) -> tuple[list[str], list[str]]:
        lines = [line.strip() for line in text.splitlines()]
        says = [line.strip('#" ') for line in lines if line.startswith(("# ", '"""'))]
        wanted = [self.meaning(words.strip()) for line in says for words in re.findall(r"[^.]+\.", line)]
        found = [line for line in lines if line == "pass" or line.startswith("amount ")]
        return found, wanted

    def meaning(self, words: str) -> str:
        """`Add 2.` → `amount += 2`."""
        condition = _CONDITION.fullmatch(words)
        when, limit, says = condition.groups() if condition else ("", "0", words)
        for word, pattern in _SAYS.items():
            before, _, after = pattern.partition("{number}" if word else "{call}")
            if says.lower().startswith(before.lower()) and says.endswith(after):
                said = says[len(before) :].removesuffix(after)
                number, call = (int(said), "") if word else (0, said)
                return self.code(Step(word=word, number=number, when=when, limit=int(limit), call=call))
        return words

    @property
    def mend(self) -> str:
        return _MEND


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


_MEANING = (
    "Each function takes a whole number, changes it step by step as its docstring or comments say, in that "
    "order, and returns it; `Apply NAME.` means: call the function NAME of `NAME.py` on it; `Take the "
    "remainder by 4.` means Python's `%`. The tests below `tests/` are incomplete: you will be judged by "
    "other inputs too. Edit the files and run `test`, which can time out: run it again. When all is right, "
    "call `submit` with the number that `test` prints beside its `ok`."
)
REALISTIC = Realistic(
    names=(
        "shipping_fee",
        "loyalty_discount",
        "sales_tax",
        "handling_charge",
        "base_rate",
        "late_penalty",
        "bulk_rebate",
        "gift_wrapping",
        "fuel_surcharge",
        "key_deposit",
        "agent_commission",
        "cash_rounding",
    ),
    argument="amount",
    between="\n    ",
    prose=(
        "A small Python project calculates prices. The function `{name}` in `{name}.py`, or one that it "
        "calls, has lines that do not do what its docstring or comments say. Correct all of them. "
        f"{_MEANING}",
        "A small Python project calculates prices. The function `{name}` in `{name}.py`, or one that it "
        "calls, has not been written: `pass` stands in its place. Write all that are missing. "
        f"{_MEANING}",
    ),
)
