"""A page read without a browser: its controls and their state, and the tree that Chromium would build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agito.worlds.browser.markup import Node, Unsupported
from agito.worlds.browser.tree import FIELDS, Element, View, read

_ROLES = {
    "p": "paragraph",
    "li": "listitem",
    "ul": "list",
    "ol": "list",
    "strong": "strong",
    "em": "emphasis",
    "label": "LabelText",
    "br": "LineBreak",
    "hr": "separator",
    "tr": "row",
    "td": "cell",
    "th": "cell",
    "table": "table",
    "form": "form",
    "article": "article",
    "nav": "navigation",
    "main": "main",
    "aside": "complementary",
    "blockquote": "blockquote",
    "code": "code",
    "mark": "mark",
    **{f"h{level}": "heading" for level in range(1, 7)},
}
_CONTROLS = {
    "text": "textbox",
    "search": "searchbox",
    "tel": "textbox",
    "password": "textbox",
    "checkbox": "checkbox",
    "radio": "radio",
    "submit": "button",
}
_UNSEEN = frozenset(("title", "head", "meta", "noscript", "template"))
_BREAKS = frozenset(
    (
        "br",
        "p",
        "div",
        "li",
        "ul",
        "ol",
        "td",
        "th",
        "tr",
        "table",
        "section",
        "article",
        "blockquote",
        "hr",
        "form",
    )
)
_HELD = frozenset(("input", "select", "textarea", "button"))


@dataclass(slots=True, eq=False)
class Control:
    """A control and its state."""

    node: Node
    kind: str  # type of an input; or select, textarea, button
    form: Node | None
    value: str = ""
    is_on: bool = False
    # options of a choice, with their labels
    options: list[tuple[Node, str]] = field(default_factory=list[tuple[Node, str]])

    @property
    def name(self) -> str:
        return self.node.given.get("name", "")

    @property
    def sent(self) -> str | None:
        """The value that a form sends for it; None for nothing."""
        if not self.name or "disabled" in self.node.given:
            return None
        if self.kind in ("checkbox", "radio"):
            return self.node.given.get("value", "on") if self.is_on else None
        if self.kind == "select":
            chosen = next(((node, label) for node, label in self.options if label == self.value), None)
            return (
                None
                if chosen is None or "disabled" in chosen[0].given
                else chosen[0].given.get("value", chosen[1])
            )
        return self.value.replace("\n", "\r\n") if self.kind == "textarea" else self.value


class Document:
    """A parsed page, the state of its controls, and the tree that Chromium would build of it."""

    def __init__(self, body: Node) -> None:
        self.nodes: list[Node] = []
        self.controls: list[Control] = []
        self._labels: dict[int, list[Node]] = {}  # by control number
        self._hidden: set[int] = set()
        self._layout: set[int] = set()
        self._number: dict[int, int] = {}
        self._elements: tuple[Element, ...] = ()
        self._body = body
        self._collect(body, None, is_hidden=False)
        self._name()

    def control(self, node: Node) -> Control:
        return next(each for each in self.controls if each.node is node)

    def is_of(self, element: Element) -> bool:
        return any(each is element for each in self._elements)

    def view(self) -> View:
        tree: list[dict[str, Any]] = []
        self._build(self._body, tree)
        view = read(tree)
        self._elements = view.elements
        return view

    def _collect(self, node: Node, form: Node | None, *, is_hidden: bool) -> None:
        self._number[id(node)] = len(self.nodes)
        self.nodes.append(node)
        is_hidden = is_hidden or "hidden" in node.given or node.tag in _UNSEEN
        if is_hidden:
            self._hidden.add(id(node))
        if node.tag in ("noscript", "template"):
            return
        if node.tag in _HELD:
            self.controls.append(_control(node, form))
        for child in node.children:
            self._collect(child, node if node.tag == "form" else form, is_hidden=is_hidden)

    def _name(self) -> None:
        labels = [node for node in self.nodes if node.tag == "label"]
        for label in labels:
            held = [each for each in _walk(label) if each.tag in _HELD and each.given.get("type") != "hidden"]
            if len(held) > 1 or (
                "for" in label.given and held and held[0].given.get("id") != label.given["for"]
            ):
                raise Unsupported("<label> of more than one control")
            aimed = (
                [
                    node
                    for node in self.nodes
                    if node.tag in _HELD and node.given.get("id") == label.given.get("for")
                ]
                if "for" in label.given
                else held
            )
            for node in aimed[:1]:
                self._labels.setdefault(self._number[id(node)], []).append(label)

    def _build(self, node: Node, tree: list[dict[str, Any]]) -> str | None:
        """Adds the nodes that Chromium would; returns the id."""
        if id(node) in self._hidden or (
            node.tag == "input" and node.given.get("type", "").lower() == "hidden"
        ):
            return None
        number = self._number[id(node)]
        made: dict[str, Any] = {
            "nodeId": str(number),
            "backendDOMNodeId": number,
            "childIds": [],
            "properties": [],
        }
        tree.append(made)
        if not node.tag:
            return _fill(made, "StaticText", " ".join(node.text.split()))
        if node.tag in _HELD:
            control = self.control(node)
            self._build_control(made, control)
            made["childIds"] = [
                self._build_option(each, label, control, tree) for each, label in control.options
            ]
            return made["nodeId"]
        if node.tag == "table" and not any(each.tag in ("th", "thead", "tfoot") for each in _walk(node)):
            # Chromium treats a table without headers as layout
            self._layout.update(id(each) for each in _walk(node))
        name = _content(node) if node.tag[0] == "h" or node.tag == "a" else ""
        role = "link" if node.tag == "a" and "href" in node.given else _ROLES.get(node.tag, "generic")
        if (
            role == "paragraph"
            and not _content(node)
            and not any(each.tag in _HELD | _BREAKS for each in _walk(node))
        ):
            role = "generic"  # it takes no room
        _fill(made, "LayoutTableRow" if role == "row" and id(node) in self._layout else role, name)
        made["childIds"] = [child for each in node.children if (child := self._build(each, tree)) is not None]
        return made["nodeId"]

    def _build_option(self, node: Node, label: str, control: Control, tree: list[dict[str, Any]]) -> str:
        number = self._number[id(node)]
        flags = [
            ("selected", label == control.value),
            ("disabled", "disabled" in node.given or "disabled" in control.node.given),
        ]
        made: dict[str, Any] = {"nodeId": str(number), "backendDOMNodeId": number}
        made["properties"] = [{"name": flag, "value": {"value": value}} for flag, value in flags]
        tree.append(made)
        return _fill(made, "option", label)

    def _build_control(self, made: dict[str, Any], control: Control) -> None:
        given, role = (
            control.node.given,
            _CONTROLS.get(
                control.kind, {"select": "combobox", "textarea": "textbox"}.get(control.kind, "button")
            ),
        )
        labels = [_content(label) for label in self._labels.get(made["backendDOMNodeId"], [])]
        own = (
            _content(control.node)
            if control.kind == "button"
            else given.get("value", "Submit")
            if control.kind == "submit"
            else ""
        )
        name = given.get("aria-label", "").strip() or (
            " ".join(labels) if labels else own or given.get("title") or given.get("placeholder", "")
        )
        if given.get("title") and given.get("placeholder"):
            raise Unsupported("a field with both a title and a placeholder")
        _fill(made, role, name)
        flags: list[tuple[str, Any]] = []
        if role in ("checkbox", "radio"):
            flags.append(("checked", "true" if control.is_on else "false"))
        elif role != "button":
            value = "\u2022" * len(control.value) if control.kind == "password" else control.value
            made["value"] = {"value": value}
        if control.kind == "textarea":
            flags.append(("multiline", True))
        if "disabled" in given:
            flags.append(("disabled", True))
        elif "readonly" in given and role in FIELDS:
            flags.append(("readonly", True))
        made["properties"] = [{"name": flag, "value": {"value": value}} for flag, value in flags]


def _control(node: Node, form: Node | None) -> Control:
    kind = node.given.get("type", "text").lower() if node.tag == "input" else node.tag
    control = Control(
        node=node, kind=kind, form=form, value=node.given.get("value", ""), is_on="checked" in node.given
    )
    if kind in ("text", "search", "tel", "password"):
        control.value = control.value.replace("\n", "").replace("\r", "")
    if kind == "textarea":
        control.value = "".join(child.text for child in node.children)
    if kind == "select":
        control.options = [
            (each, " ".join(_content(each).split())) for each in _walk(node) if each.tag == "option"
        ]
        labels = [label for _, label in control.options]
        if len(set(labels)) < len(labels):
            raise Unsupported("<select> with an option twice")
        chosen = [label for each, label in control.options if "selected" in each.given]
        free = [label for each, label in control.options if "disabled" not in each.given]
        control.value = [*chosen[-1:], *free, ""][0]
    return control


def _fill(made: dict[str, Any], role: str, name: str) -> str:
    made["role"], made["name"] = {"value": role}, {"value": name}
    return made["nodeId"]


def _walk(node: Node) -> list[Node]:
    return [each for child in node.children for each in (child, *_walk(child))]


def _content(node: Node) -> str:
    """The text inside, as used for names; controls inside are left out."""
    return " ".join(_raw(node).split())


def _raw(node: Node) -> str:
    if not node.tag:
        return node.text
    if "hidden" in node.given:
        return ""
    inner = "".join(_raw(child) for child in node.children if child.tag not in _HELD)
    return f" {inner} " if node.tag in _BREAKS else inner
