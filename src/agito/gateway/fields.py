"""The fields of a request's body, read one by one: what is of the wrong kind is refused with its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from agito.gateway.api_request import Refused
from agito.render import policy_json
from agito.types import Effort, Json, Thinking, ToolSpec

_EFFORTS = {
    "none": Effort.NONE,
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "auto": Effort.AUTO,
}
_LITTLE, _MUCH = 2048, 8192  # tokens of thinking that count as low and as high


class Fields:
    """One JSON object. `where` is what stands before the names of its fields in a refusal."""

    def __init__(self, found: Json, where: str = "") -> None:
        self._where = where
        if not isinstance(found, dict):
            raise self.wrong("", "must be an object")
        self._found: Mapping[str, Json] = found

    def wrong(self, name: str, why: str) -> Refused:
        param = ".".join(part for part in (self._where, name) if part)
        return Refused(
            400, f"{param}: {why}" if param else f"the body {why}", param=param or None, code="invalid_value"
        )

    def get(self, name: str) -> Json:
        return self._found.get(name)

    def has(self, name: str) -> bool:
        return self._found.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._found.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return policy_json.printable(value)

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self._found.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self._found.get(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not least <= value <= most
        ):
            raise self.wrong(name, f"must be a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._found.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def objects(self, name: str) -> list[Fields]:
        value = self._found.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return [Fields(each, f"{self._name(name)}[{number}]") for number, each in enumerate(value)]

    def object(self, name: str) -> Fields:
        return Fields(self._found.get(name), self._name(name))

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """One string or a list of them; empty ones mean nothing."""
        value = self._found.get(name)
        listed = (
            [value]
            if isinstance(value, str)
            else value
            if isinstance(value, list)
            else []
            if value is None
            else None
        )
        if listed is None or len(listed) > most or not all(isinstance(each, str) for each in listed):
            raise self.wrong(name, f"must be a string or a list of at most {most} strings")
        return tuple(each for each in cast("list[str]", listed) if each)

    def parts(self, name: str, kinds: Sequence[str]) -> str:
        """A string, or parts of text one after the other."""
        value = self._found.get(name)
        if value is None or isinstance(value, str):
            return policy_json.printable(value or "")
        said: list[str] = []
        for part in self.objects(name):
            kind = part.text("type")
            if kind not in kinds:
                raise part.wrong("type", f"{kind!r} cannot be read by this model: it reads text")
            said.append(part.text("refusal" if kind == "refusal" else "text"))
        return "".join(said)

    def effort(self, name: str) -> Effort:
        value = self.text(name, "none")
        if value not in _EFFORTS:
            raise self.wrong(name, f"must be one of {', '.join(_EFFORTS)}")
        return _EFFORTS[value]

    def thinking(self) -> Thinking | None:
        """What a request of chat completions asks for: `reasoning_effort`, `enable_thinking` and
        `thinking.budget_tokens`, the last a hard budget. None where nothing is said."""
        told = self.object("chat_template_kwargs") if self.has("chat_template_kwargs") else self
        found = [each for each in (self, told) if each.has("enable_thinking")]
        effort = (Effort.HIGH if found[-1].flag("enable_thinking") else Effort.NONE) if found else None
        if self.has("reasoning_effort"):
            effort = self.effort("reasoning_effort")
        return self.budgeted(effort)

    def budgeted(self, effort: Effort | None) -> Thinking | None:
        """As the block `thinking` says; `effort` where that was named elsewhere."""
        if not self.has("thinking"):
            return None if effort is None else Thinking(effort=effort)
        given = self.object("thinking")
        kind = given.text("type", "enabled")
        if kind not in ("enabled", "adaptive", "disabled"):
            raise given.wrong("type", "must be enabled, adaptive or disabled")
        budget = given.whole("budget_tokens", 0, 1 << 20)
        if kind == "disabled":
            return Thinking(effort=Effort.NONE)
        if effort is None:
            little, much = budget is not None and budget <= _LITTLE, budget is None or budget >= _MUCH
            effort = Effort.LOW if little else Effort.HIGH if much else Effort.MEDIUM
            effort = Effort.AUTO if kind == "adaptive" else effort
        return Thinking(effort=effort, turn_tokens=budget)

    def refuse(self, *names: str, unless: Sequence[Json] = (None,)) -> None:
        """What cannot be honoured, unless its value asks for nothing."""
        for name in names:
            if self._found.get(name) not in unless:
                raise Refused(
                    400,
                    f"{self._name(name)} is not supported here",
                    param=self._name(name),
                    code="unsupported_parameter",
                )

    def _name(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name


def tool_of(function: Fields, parameters: str) -> ToolSpec:
    schema = function.get(parameters)
    if schema is not None and not isinstance(schema, dict):
        raise function.wrong(parameters, "must be a JSON schema of an object")
    return ToolSpec(
        name=function.text("name"),
        description=function.text("description", ""),
        parameters=schema or {"type": "object"},
    )
