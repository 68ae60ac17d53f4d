"""A team's own tools, which the harness answers and no world sees: `spawn`, `report`, `note`, `notes`.

`spawn` and `report` are the only way from one context into another. `merge`, which takes over what a child
did on its fork of the world, is answered by the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agito.types import Call, Json, ToolSpec

SPAWN, REPORT, NOTE, NOTES = "spawn", "report", "note", "notes"
OWN = frozenset((SPAWN, REPORT, NOTE, NOTES))
MERGE = "merge"
BETWEEN = " | "  # briefs of one call, and what came back from each
FAILED = "(it failed)"
OUT_OF_TURNS, OUT_OF_CALLS, OUT_OF_TOKENS = "(out of turns)", "(out of calls)", "(out of tokens)"
TOO_LONG = "(its brief is too long)"
NO_REPORTS = frozenset((FAILED, OUT_OF_TURNS, OUT_OF_CALLS, OUT_OF_TOKENS, TOO_LONG))
NO_TURNS = "no turns are left for it"
NO_FORK = "what is in the world cannot be copied"
_LONGEST = 4096  # bytes of a note that an agent keeps


def own_tools(
    roles: Sequence[str], *, is_root: bool, has_notes: bool, merges: bool = False
) -> tuple[ToolSpec, ...]:
    """Of one agent. `roles`: those that it may spawn; `merges`: some of them work on forks."""
    tools: list[ToolSpec] = []
    if roles:
        what = (
            f"Hand out work to agents that know nothing but their brief: {', '.join(roles)}. `budget`: turns "
            f"of each. Several briefs, with{BETWEEN}between them, are worked on side by side."
        )
        tools.append(_tool(SPAWN, what, {"role": "string", "budget": "integer", "brief": "string"}))
    if merges:
        what = (
            "Take over what an agent changed in its copy of the world: all of it, or nothing where you "
            "changed the same, unless `overwrite`. `child`: its number, counted from 1 over all your briefs."
        )
        tools.append(_tool(MERGE, what, {"child": "integer", "overwrite": "boolean"}, optional=1))
    if not is_root:
        what = "End your work; whoever gave it to you reads this text and nothing else."
        tools.append(_tool(REPORT, what, {"text": "string"}))
    if has_notes:
        tools.append(_tool(NOTE, "Keep a note that only you can read.", {"text": "string"}))
        tools.append(_tool(NOTES, "Read your notes.", {}))
    return tuple(tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a `spawn` call asks for."""

    role: str
    budget: int  # turns of each
    briefs: tuple[str, ...]


def order_of(call: Call, roles: Sequence[str], *, breadth: int) -> Order | str:
    """The order, or what is wrong with the call."""
    role, budget, brief = (call.arguments.get(name) for name in ("role", "budget", "brief"))
    if role not in roles or not isinstance(role, str):
        return f"the roles are {', '.join(roles)}"
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        return "the budget is a number of turns, at least 1"
    briefs = briefs_of(call)
    if not isinstance(brief, str) or not all(briefs):
        return "every agent needs a brief"
    if len(briefs) > breadth:
        return too_many(breadth)
    return Order(role=role, budget=budget, briefs=briefs)


def too_many(breadth: int) -> str:
    return f"at most {breadth} agents at a time"


def refusal(why: str) -> str:
    """What a `spawn` call that was not carried out answers."""
    return f"error: {why}"


def briefs_of(call: Call) -> tuple[str, ...]:
    """The briefs of a `spawn` call, in order."""
    return tuple(each.strip() for each in printable(call.arguments.get("brief")).split(BETWEEN))


def reported(call: Call, limit_bytes: int) -> str:
    """What a `report` call hands back, cut where a tool's result would be."""
    return clipped(printable(call.arguments.get("text")), limit_bytes)


def noted(call: Call) -> str:
    return clipped(printable(call.arguments.get("text")), _LONGEST)


def notes_text(notes: Iterable[str], limit_bytes: int) -> str:
    """What `notes` answers."""
    return clipped("\n".join(notes) or "no notes", limit_bytes)


def printable(value: Json) -> str:
    """Text without halves of characters; nothing for what is no text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def clipped(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")


def _tool(name: str, description: str, parameters: dict[str, str], *, optional: int = 0) -> ToolSpec:
    """`optional`: how many of the last parameters may be left out."""
    properties: dict[str, Json] = {key: {"type": kind} for key, kind in parameters.items()}
    required: list[Json] = [*parameters]
    schema: dict[str, Json] = {
        "type": "object",
        "properties": properties,
        "required": required[: len(required) - optional],
    }
    return ToolSpec(name=name, description=description, parameters=schema)
