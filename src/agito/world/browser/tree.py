"""What a page says, as a few lines of text: its accessibility tree, with a number for everything that can be acted on.

The tree is the browser's own, computed outside the page: no script of the page can lie about it without changing what a person would see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIELDS = frozenset(("textbox", "searchbox", "spinbutton"))
CHOICES = frozenset(("combobox", "listbox"))
_TOGGLES = frozenset(("checkbox", "radio", "switch"))
_WORDS = {"textbox": "field", "searchbox": "field", "spinbutton": "field", "combobox": "choice", "listbox": "choice", "checkbox": "check"}
_ACTIVE = frozenset(("link", "button")) | FIELDS | CHOICES | _TOGGLES
_TEXT = frozenset(("StaticText", "text"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Something that can be acted on."""

    node: int  # the browser's own number of it
    role: str
    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    text: str
    elements: tuple[Element, ...]  # number 1 is the first


def read(nodes: Sequence[Mapping[str, Any]]) -> View:
    """From the nodes of `Accessibility.getFullAXTree`."""
    reader = _Reader({node["nodeId"]: node for node in nodes})
    if nodes:
        reader.walk(nodes[0])
    reader.end_line()
    return View(text="\n".join(reader.lines), elements=tuple(reader.elements))


def line_of(number: int, role: str, name: str, value: str, is_on: bool, options: tuple[str, ...]) -> str:
    """Such as `3 choice color: red (red blue)`."""
    line = f"{number} {_WORDS.get(role, role)} {name}".rstrip()
    if role in _TOGGLES:
        return f"{line}: {'on' if is_on else 'off'}"
    if role in FIELDS or role in CHOICES:
        line = f"{line}: {value}".rstrip()
    return f"{line} ({' '.join(options)})" if options else line


class _Reader:
    def __init__(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        self.nodes = nodes
        self.lines: list[str] = []
        self.elements: list[Element] = []
        self.words: list[str] = []  # of the line that is being made

    def walk(self, node: Mapping[str, Any], is_label: bool = False) -> None:
        role, name = str(_value(node, "role")), " ".join(str(_value(node, "name")).split())
        if not node.get("ignored"):
            if role in _TEXT:
                if name and not is_label:  # a label is the name of its field
                    self.words.append(name)
                return
            if role in _ACTIVE:
                self.end_line()
                self.lines.append(self.active(node, role, name))
                return
            if role == "heading":
                self.end_line()
                self.lines.append(f"# {name}")
                return
            if role not in ("generic", "none", "emphasis", "strong", "LabelText"):
                self.end_line()
        for child in node.get("childIds", ()):
            if child in self.nodes:
                self.walk(self.nodes[child], is_label or role == "LabelText")
        if not node.get("ignored") and role in ("paragraph", "listitem", "row", "alert", "status"):
            self.end_line()

    def end_line(self) -> None:
        if self.words:
            self.lines.append(" ".join(self.words))
            self.words = []

    def active(self, node: Mapping[str, Any], role: str, name: str) -> str:
        options = tuple(self.options(node)) if role in CHOICES else ()
        self.elements.append(Element(node=node["backendDOMNodeId"], role=role, name=name, options=options))
        checked = next((each["value"].get("value") for each in node.get("properties", ()) if each["name"] == "checked"), "false")
        return line_of(len(self.elements), role, name, str(_value(node, "value")), checked == "true", options)

    def options(self, node: Mapping[str, Any]) -> list[str]:
        found: list[str] = []
        for child in node.get("childIds", ()):
            inner = self.nodes.get(child)
            if inner is not None:
                found.extend([str(_value(inner, "name"))] if _value(inner, "role") in ("option", "menuitem") else self.options(inner))
        return found


def _value(node: Mapping[str, Any], key: str) -> Any:
    return node.get(key, {}).get("value", "")
