"""A page as lines of text: its accessibility tree, with a number for everything that can be acted on.

The tree is computed by the browser, outside the page, so a script cannot falsify it without changing what a
person would see. Text that looks like an element or a heading is marked with a bar, so that only real ones
look real.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TEXT_FIELDS = frozenset(("textbox", "searchbox", "spinbutton", "editor"))
# set by value, not typed
VALUE_FIELDS = {
    "Date": "date",
    "InputTime": "time",
    "DateTime": "date and time",
    "ColorWell": "#rrggbb",
    "slider": "",
}
FIELDS = TEXT_FIELDS | frozenset(VALUE_FIELDS)
CHOICES = frozenset(("combobox", "listbox"))
UPLOAD = "upload"
_TOGGLES = frozenset(("checkbox", "radio", "switch", "menuitemcheckbox", "menuitemradio"))
_SELECTED = frozenset(("tab", "option", "treeitem"))
_WORDS = {
    "textbox": "field",
    "searchbox": "field",
    "spinbutton": "field",
    "editor": "field",
    "Date": "field",
    "InputTime": "field",
    "DateTime": "field",
    "ColorWell": "field",
    "combobox": "choice",
    "listbox": "choice",
    "checkbox": "check",
    "DisclosureTriangle": "summary",
    "menuitemcheckbox": "check",
    "menuitemradio": "radio",
}
_ACTIVE = (
    frozenset(("link", "button", "DisclosureTriangle", "menuitem", UPLOAD))
    | FIELDS
    | CHOICES
    | _TOGGLES
    | _SELECTED
)
_TEXT = frozenset(("StaticText", "text"))
_INLINE = frozenset(("generic", "none", "emphasis", "strong", "LabelText"))
_WHOLE = frozenset(("paragraph", "listitem", "row", "alert", "status"))  # a line also ends after these
_DEEPEST = 400
_SEEMING = re.compile(
    rf"#|\||\d+\s+({'|'.join(sorted({_WORDS.get(role, role) for role in _ACTIVE} | {'clickable'}))})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Something that can be acted on."""

    node: int  # the browser's own number
    role: str
    name: str
    options: tuple[str, ...] = ()
    option_nodes: tuple[int, ...] = ()
    frame: str = ""  # id of its frame; empty for the page itself
    problem: str = ""  # why it cannot be acted on: disabled, read-only
    has_lines: bool = False  # a multi-line field
    has_list: bool = False  # a field that may have suggestions


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    text: str
    elements: tuple[Element, ...]  # number 1 is the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The tree of one frame: nodes of `Accessibility.getFullAXTree`, root first."""

    nodes: Sequence[Mapping[str, Any]]
    id: str = ""
    # by the node of the element that holds it
    inner: Mapping[int, Frame] = field(default_factory=dict[int, "Frame"])


def read(nodes: Sequence[Mapping[str, Any]], *, clickable: frozenset[int] = frozenset()) -> View:
    return read_frame(Frame(nodes=nodes), clickable=clickable)


def read_frame(
    frame: Frame,
    *,
    clickable: frozenset[int] = frozenset(),
    suggestions: Mapping[int, tuple[str, ...]] | None = None,
) -> View:
    """`clickable`: nodes without a role that listen to clicks. `suggestions`: suggestions of
    fields, by node.
    """
    reader = _Reader(frame, clickable, suggestions or {})
    reader.whole(frame)
    return View(text="\n".join(reader.lines), elements=tuple(reader.elements))


class _Reader:
    def __init__(
        self, frame: Frame, clickable: frozenset[int], suggestions: Mapping[int, tuple[str, ...]]
    ) -> None:
        self.frame, self.clickable, self.suggestions = frame, clickable, suggestions
        self.nodes: Mapping[str, Mapping[str, Any]] = {}
        self.lines: list[str] = []
        self.elements: list[Element] = []
        self.words: list[str] = []  # of the current line

    def whole(self, frame: Frame) -> None:
        kept = self.frame, self.nodes
        self.frame, self.nodes = frame, {node["nodeId"]: node for node in frame.nodes}
        if frame.nodes:
            self.walk(frame.nodes[0], 0)
        self.end_line()
        self.frame, self.nodes = kept

    def walk(self, node: Mapping[str, Any], depth: int, *, is_label: bool = False) -> None:
        role, name = _role(node), _clean(_value(node, "name"))
        is_shown = not node.get("ignored")
        if is_shown and role in _TEXT:
            if name and not is_label:  # a label is the name of its field
                self.words.append(name)
            return
        if is_shown and role == "listbox" and not self.is_select(node):
            role = "list"
        if is_shown and role in _ACTIVE:
            self.end_line()
            self.lines.append(self.active(node, role, name))
            if role in ("link", "button", "DisclosureTriangle", "treeitem", "tab", "option", "menuitem"):
                self.inside(node, depth, is_label=True)
            return
        if is_shown and role == "heading":
            self.end_line()
            self.lines.append(f"# {name}")
            self.inside(node, depth, is_label=True)
            return
        if (
            node.get("backendDOMNodeId") in self.clickable
            and role != "LabelText"
            and self.is_leaf(node, depth)
        ):
            self.end_line()
            self.lines.append(self.active(node, "clickable", " ".join(self.texts(node, depth))))
            return
        if is_shown and role == "image" and name and not is_label:
            self.words.append(f"[{name}]")
        if is_shown and role not in _INLINE and role != "image":
            self.end_line()
        if role == "Iframe" and (inner := self.frame.inner.get(node.get("backendDOMNodeId", -1))) is not None:
            self.whole(inner)
            return
        self.inside(node, depth, is_label=is_label or role == "LabelText")
        if is_shown and role in _WHOLE:
            self.end_line()

    def inside(self, node: Mapping[str, Any], depth: int, *, is_label: bool) -> None:
        if depth < _DEEPEST:
            for child in self.children(node):
                self.walk(child, depth + 1, is_label=is_label)

    def children(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [self.nodes[child] for child in node.get("childIds", ()) if child in self.nodes]

    def end_line(self) -> None:
        if self.words:
            line = " ".join(self.words)
            self.lines.append(f"| {line}" if _SEEMING.match(line) else line)
            self.words = []

    def active(self, node: Mapping[str, Any], role: str, name: str) -> str:
        given = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
        value = (
            " ".join(str(_value(node, "value")).replace("\n", "\\n").split())
            if role != "editor"
            else " ".join(self.texts(node, 0))
        )
        options: list[tuple[str, int]] = []
        if role in CHOICES:
            listed = self.options(node)
            options = [(label, number) for label, number, _, is_off in listed if not is_off]
            if role == "listbox":
                value = " ".join(_quoted(label) for label, _, is_on, _ in listed if is_on)
        offered = tuple(label for label, _ in options) or self.suggestions.get(node["backendDOMNodeId"], ())
        problem = (
            "disabled"
            if given.get("disabled")
            else "read-only"
            if given.get("readonly") is True and role in FIELDS
            else ""
        )
        self.elements.append(
            Element(
                node=node["backendDOMNodeId"],
                role=role,
                name=name,
                options=offered,
                option_nodes=tuple(number for _, number in options),
                frame=self.frame.id,
                problem=problem,
                has_lines=bool(given.get("multiline")) or role == "editor",
                has_list=given.get("hasPopup") == "listbox",
            )
        )
        line = line_of(len(self.elements), role, name, value, _is_on(role, given), offered)
        if role == "slider" and "valuemin" in given:
            line += f" ({given['valuemin']:g} to {given['valuemax']:g})"
        elif VALUE_FIELDS.get(role):
            line += f" ({VALUE_FIELDS[role]})"
        return f"{line} ({problem})" if problem else line

    def is_select(self, node: Mapping[str, Any]) -> bool:
        """Whether it is an HTML select; in custom lists, every option is an element of its own."""
        return not any(
            "focusable" in {each["name"] for each in child.get("properties", ())} and self.children(child)
            for child in self.children(node)
            if _role(child) == "option"
        )

    def is_leaf(self, node: Mapping[str, Any], depth: int) -> bool:
        """Whether it has text of its own and nothing inside that can be acted on."""
        if depth >= _DEEPEST:
            return False
        pending, has_words = self.children(node), False
        while pending:
            child = pending.pop()
            role = _role(child)
            if (not child.get("ignored") and role in _ACTIVE) or child.get(
                "backendDOMNodeId"
            ) in self.clickable:
                return False
            has_words = has_words or (role in _TEXT and bool(_clean(_value(child, "name"))))
            pending.extend(self.children(child))
        return has_words

    def texts(self, node: Mapping[str, Any], depth: int) -> list[str]:
        if _role(node) in _TEXT:
            return [word] if (word := _clean(_value(node, "name"))) else []
        return (
            [word for child in self.children(node) for word in self.texts(child, depth + 1)]
            if depth < _DEEPEST
            else []
        )

    def options(self, node: Mapping[str, Any]) -> list[tuple[str, int, bool, bool]]:
        """Label, node, whether it is chosen, whether it is disabled."""
        found: list[tuple[str, int, bool, bool]] = []
        for child in self.children(node):
            if _role(child) not in ("option", "menuitem"):
                found.extend(self.options(child))
                continue
            given = {each["name"]: each["value"].get("value") for each in child.get("properties", ())}
            found.append(
                (
                    _clean(_value(child, "name")),
                    child["backendDOMNodeId"],
                    bool(given.get("selected")),
                    bool(given.get("disabled")),
                )
            )
        return found


def line_of(
    number: int, role: str, name: str, value: str, is_on: bool | None, options: tuple[str, ...]
) -> str:
    """Such as `3 choice color: red (red blue)`."""
    line = f"{number} {_WORDS.get(role, role)} {name}".rstrip()
    if is_on is not None:
        return f"{line}: {'on' if is_on else 'off'}"
    if role in FIELDS or role in CHOICES or role == UPLOAD:
        line = f"{line}: {value}".rstrip()
    return f"{line} ({' '.join(map(_quoted, options))})" if options else line


def _is_on(role: str, given: Mapping[str, Any]) -> bool | None:
    """None for elements without an on/off state."""
    if role in _TOGGLES:
        return given.get("checked") == "true"
    if role in _SELECTED and "selected" in given:
        return bool(given["selected"])
    if role == "DisclosureTriangle":
        return bool(given.get("expanded"))
    return given["pressed"] == "true" if "pressed" in given else None


def _role(node: Mapping[str, Any]) -> str:
    role = str(_value(node, "role"))
    given = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
    if role == "button" and "value" in node and "pressed" not in given:
        return UPLOAD
    if (
        given.get("editable") == "richtext"
        and given.get("focusable")
        and role not in _ACTIVE
        and role not in (*_TEXT, "RootWebArea")
    ):
        return "editor"
    if role == "combobox" and given.get("editable"):
        return "textbox"
    return "editor" if role == "textbox" and given.get("editable") == "richtext" else role


def _quoted(label: str) -> str:
    return f'"{label}"' if re.search(r"[\s()\"]", label) else label


def _clean(text: Any) -> str:
    """One line without invisible characters, which could make one thing look like another."""
    said = str(text)
    if not said.isascii():
        said = "".join(each for each in said if unicodedata.category(each) != "Cf" or each in "\u200c\u200d")
    return " ".join(said.split())


def _value(node: Mapping[str, Any], key: str) -> Any:
    return node.get(key, {}).get("value", "")
