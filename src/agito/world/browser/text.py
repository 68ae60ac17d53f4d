"""A browser for static pages, without a process: links, forms, history, and the same lines as Chromium's tree.

For training where Chromium would cost more than the model. It builds the tree that Chromium would build of the part of HTML that it knows
(`markup`), and refuses every page with anything else in it: no scripts, no styles, no frames. Tests hold the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from agito.world.browser.markup import Node, Unsupported, parse
from agito.world.browser.page import Site, Unusable
from agito.world.browser.tree import CHOICES, FIELDS, Element, View, read
from agito.world.http1 import Request, Response

_MOST_REDIRECTS = 8
_ROLES = {
    "p": "paragraph", "li": "listitem", "ul": "list", "ol": "list", "strong": "strong", "em": "emphasis", "label": "LabelText",
    "br": "LineBreak", "hr": "separator", "tr": "row", "td": "cell", "th": "cell", "table": "table", "form": "form",
    "article": "article", "nav": "navigation", "main": "main", "aside": "complementary", "blockquote": "blockquote", "code": "code",
    "mark": "mark", **{f"h{level}": "heading" for level in range(1, 7)},
}  # fmt: skip
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
_BREAKS = frozenset(("br", "p", "div", "li", "ul", "ol", "td", "th", "tr", "table", "section", "article", "blockquote", "hr", "form"))
_COOKIES = frozenset(("path=/", "httponly", "samesite=lax", "samesite=strict"))  # what else they say is not known here
_HELD = frozenset(("input", "select", "textarea", "button"))


class TextTabs:
    """Where pages come from; the counterpart of `Farm`."""

    async def page(self, site: Site) -> TextPage:
        return TextPage(site)

    async def aclose(self) -> None:
        return


@dataclass(slots=True, eq=False)
class _Control:
    """A control and its state."""

    node: Node
    kind: str  # of an input; select, textarea or button
    form: Node | None
    value: str = ""
    is_on: bool = False
    options: list[tuple[Node, str]] = field(default_factory=list[tuple[Node, str]])  # of a choice, with their labels

    @property
    def name(self) -> str:
        return self.node.given.get("name", "")

    @property
    def sent(self) -> str | None:
        """What a form sends for it; None: nothing."""
        if not self.name or "disabled" in self.node.given:
            return None
        if self.kind in ("checkbox", "radio"):
            return self.node.given.get("value", "on") if self.is_on else None
        if self.kind == "select":
            chosen = next(((node, label) for node, label in self.options if label == self.value), None)
            return None if chosen is None or "disabled" in chosen[0].given else chosen[0].given.get("value", chosen[1])
        return self.value.replace("\n", "\r\n") if self.kind == "textarea" else self.value


@dataclass(slots=True)
class _Entry:
    """A page that was visited; `response` where going back shows it as it was."""

    url: str
    response: Response | None
    is_sent: bool = False  # by a form, and not led on from there
    is_edited: bool = False  # fields that Chromium would fill in again


class TextPage:
    """One page of one episode. Raises `Unsupported` for what only Chromium reads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._document = _Document(Node("body"))
        self._history: list[_Entry] = []
        self._cookies: dict[str, dict[str, str]] = {}  # by host

    @property
    def url(self) -> str:
        return self._history[-1].url if self._history else "about:blank"

    async def goto(self, url: str) -> View:
        return await self._load("GET", url)

    async def click(self, element: Element) -> View:
        """Raises `Unusable`."""
        node = self._usable(element)
        if node.tag == "a":
            return await self._load("GET", urljoin(self.url, node.given["href"].strip()))
        control = self._document.control(node)
        if control.kind == "checkbox":
            control.is_on = not control.is_on
        elif control.kind == "radio":
            for each in self._document.controls:
                if each is control or (each.kind == "radio" and each.form is control.form and each.name and each.name == control.name):
                    each.is_on = each is control
        elif control.kind in ("submit", "button") and node.given.get("type", "submit").lower() == "submit" and control.form is not None:
            return await self._submit(control.form, control)
        self._edited(control)
        return self._document.view()

    async def fill(self, element: Element, text: str) -> View:
        """Raises `Unusable`."""
        node = self._usable(element)
        if element.role not in FIELDS:
            raise Unusable(f"{element.name or element.role} is no field")
        control = self._document.control(node)
        control.value = text
        self._edited(control)
        return self._document.view()

    async def select(self, element: Element, label: str) -> View:
        """Raises `Unusable`."""
        node = self._usable(element)
        if element.role not in CHOICES or label not in element.options:
            raise Unusable(f"{element.name or element.role} does not offer {label!r}")
        control = self._document.control(node)
        control.value = label
        self._edited(control)
        return self._document.view()

    async def press(self, element: Element, key: str) -> View:
        """Only Enter, which sends the form of a field. Raises `Unusable`."""
        node = self._usable(element)
        if key != "Enter" or node.tag != "input" or element.role not in FIELDS:
            raise Unsupported(f"press {key[:20]}")
        control = self._document.control(node)
        own = [each for each in self._document.controls if each.form is control.form and control.form is not None]
        buttons = [each for each in own if each.kind in ("submit", "button") and each.node.given.get("type", "submit").lower() == "submit"]
        if buttons and "disabled" not in buttons[0].node.given:
            return await self._submit(buttons[0].form or node, buttons[0])
        num_fields = sum(each.kind in ("text", "search", "tel", "password") for each in own)
        if control.form is not None and not buttons and num_fields == 1:
            return await self._submit(control.form, None)
        return self._document.view()

    async def scroll(self, direction: str) -> View:
        """Everything is in view. Raises `Unusable`."""
        if direction not in ("up", "down"):
            raise Unusable("direction: up or down")
        return self._document.view()

    async def upload(self, element: Element, name: str, data: bytes) -> View:
        raise Unusable(f"{element.name or element.role} takes no file")

    async def back(self) -> View:
        """Raises `Unusable`."""
        if len(self._history) < 2:
            raise Unusable("there is no page before this one")
        entry = self._history[-2]
        if entry.is_sent or entry.is_edited:
            raise Unsupported("going back to a form that was sent or filled in (autocomplete=off keeps it empty)")
        self._history.pop()
        if entry.response is not None:
            self._document = _Document(parse(entry.response.body.decode("utf-8", "replace")))
            return self._document.view()
        self._history.pop()
        return await self._load("GET", entry.url)

    async def look(self) -> View:
        return self._document.view()

    async def close(self) -> None:
        return

    def _usable(self, element: Element) -> Node:
        if element.node >= len(self._document.nodes) or not self._document.is_of(element):
            raise Unusable(f"{element.name or element.role} is gone")
        if element.problem:
            raise Unusable(f"{element.name or element.role} is {element.problem}")
        return self._document.nodes[element.node]

    def _edited(self, control: _Control) -> None:
        switches = (control.node.given.get("autocomplete"), control.form.given.get("autocomplete") if control.form is not None else None)
        if self._history and next((each for each in switches if each is not None), "").lower() != "off":
            self._history[-1].is_edited = True

    async def _submit(self, form: Node, pressed: _Control | None) -> View:
        sent = [
            (each.name, each.sent)
            for each in self._document.controls
            if each.form is form and each.sent is not None and (each is pressed or each.kind not in ("submit", "button"))
        ]
        url = urljoin(self.url, form.given.get("action", ""))
        if form.given.get("method", "get").lower() == "post":
            return await self._load("POST", url, urlencode(sent).encode())
        return await self._load("GET", f"{url.partition('#')[0].partition('?')[0]}?{urlencode(sent)}")

    async def _load(self, method: str, url: str, body: bytes = b"") -> View:
        if urlsplit(url).scheme != "http":
            raise Unsupported(url[:80])
        response = await self._ask(method, url, body)
        for _ in range(_MOST_REDIRECTS):
            if response.status not in (301, 302, 303, 307, 308):
                break
            url = urljoin(url, response.header("location"))
            method, body = (method, body) if response.status in (307, 308) else ("GET", b"")
            response = await self._ask(method, url, body)
        if not response.header("content-type").startswith("text/html"):
            raise Unsupported(f"a page of type {response.header('content-type') or 'none'}")
        self._document = _Document(parse(response.body.decode("utf-8", "replace")))
        is_kept = method == "GET" and "no-store" not in response.header("cache-control")
        entry = _Entry(url=url, response=response if is_kept else None, is_sent=method == "POST")
        if self._history and self._history[-1].url == url:  # a browser replaces an entry by itself
            self._history.pop()
        self._history.append(entry)
        return self._document.view()

    async def _ask(self, method: str, url: str, body: bytes) -> Response:
        whole = url.partition("#")[0]
        whole, host = whole if urlsplit(whole).path else f"{whole}/", urlsplit(whole).netloc
        kept = "; ".join(f"{name}={value}" for name, value in self._cookies.get(host, {}).items())
        headers = (("cookie", kept),) if kept else ()
        if method == "POST":
            headers = (*headers, ("content-type", "application/x-www-form-urlencoded"))
        response = await self._site(Request(method=method, target=whole, headers=headers, body=body))
        if response.status in (204, 205) or response.header("refresh") or response.header("content-disposition"):
            raise Unsupported(f"an answer with status {response.status}, a refresh or a file")
        for name, value in response.headers:
            if name == "set-cookie":
                self._keep(host, value)
        return response

    def _keep(self, host: str, cookie: str) -> None:
        pair, *attributes = (part.strip() for part in cookie.split(";"))
        name, is_pair, value = pair.partition("=")
        if not (is_pair and name) or {each.lower() for each in attributes} - _COOKIES:
            raise Unsupported(f"the cookie {cookie[:40]!r}")
        self._cookies.setdefault(host, {})[name.strip()] = value.strip()


class _Document:
    """A parsed page, the state of its controls, and the tree that Chromium would make of it."""

    def __init__(self, body: Node) -> None:
        self.nodes: list[Node] = []
        self.controls: list[_Control] = []
        self._labels: dict[int, list[Node]] = {}  # by the number of the control
        self._hidden: set[int] = set()
        self._layout: set[int] = set()
        self._number: dict[int, int] = {}
        self._elements: tuple[Element, ...] = ()
        self._body = body
        self._collect(body, None, is_hidden=False)
        self._name()

    def control(self, node: Node) -> _Control:
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
            if len(held) > 1 or ("for" in label.given and held and held[0].given.get("id") != label.given["for"]):
                raise Unsupported("<label> of more than one control")
            aimed = (
                [node for node in self.nodes if node.tag in _HELD and node.given.get("id") == label.given.get("for")]
                if "for" in label.given
                else held
            )
            for node in aimed[:1]:
                self._labels.setdefault(self._number[id(node)], []).append(label)

    def _build(self, node: Node, tree: list[dict[str, Any]]) -> str | None:
        """Adds what Chromium would; returns its id."""
        if id(node) in self._hidden or (node.tag == "input" and node.given.get("type", "").lower() == "hidden"):
            return None
        number = self._number[id(node)]
        made: dict[str, Any] = {"nodeId": str(number), "backendDOMNodeId": number, "childIds": [], "properties": []}
        tree.append(made)
        if not node.tag:
            return _fill(made, "StaticText", " ".join(node.text.split()))
        if node.tag in _HELD:
            control = self.control(node)
            self._build_control(made, control)
            made["childIds"] = [self._build_option(each, label, control, tree) for each, label in control.options]
            return made["nodeId"]
        if node.tag == "table" and not any(each.tag in ("th", "thead", "tfoot") for each in _walk(node)):
            self._layout.update(id(each) for each in _walk(node))  # for Chromium a table without heads serves the layout
        name = _content(node) if node.tag[0] == "h" or node.tag == "a" else ""
        role = "link" if node.tag == "a" and "href" in node.given else _ROLES.get(node.tag, "generic")
        if role == "paragraph" and not _content(node) and not any(each.tag in _HELD | _BREAKS for each in _walk(node)):
            role = "generic"  # it takes no room
        _fill(made, "LayoutTableRow" if role == "row" and id(node) in self._layout else role, name)
        made["childIds"] = [child for each in node.children if (child := self._build(each, tree)) is not None]
        return made["nodeId"]

    def _build_option(self, node: Node, label: str, control: _Control, tree: list[dict[str, Any]]) -> str:
        number = self._number[id(node)]
        flags = [("selected", label == control.value), ("disabled", "disabled" in node.given or "disabled" in control.node.given)]
        made: dict[str, Any] = {"nodeId": str(number), "backendDOMNodeId": number}
        made["properties"] = [{"name": flag, "value": {"value": value}} for flag, value in flags]
        tree.append(made)
        return _fill(made, "option", label)

    def _build_control(self, made: dict[str, Any], control: _Control) -> None:
        given, role = (
            control.node.given,
            _CONTROLS.get(control.kind, {"select": "combobox", "textarea": "textbox"}.get(control.kind, "button")),
        )
        labels = [_content(label) for label in self._labels.get(made["backendDOMNodeId"], [])]
        own = _content(control.node) if control.kind == "button" else given.get("value", "Submit") if control.kind == "submit" else ""
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


def _control(node: Node, form: Node | None) -> _Control:
    kind = node.given.get("type", "text").lower() if node.tag == "input" else node.tag
    control = _Control(node=node, kind=kind, form=form, value=node.given.get("value", ""), is_on="checked" in node.given)
    if kind in ("text", "search", "tel", "password"):
        control.value = control.value.replace("\n", "").replace("\r", "")
    if kind == "textarea":
        control.value = "".join(child.text for child in node.children)
    if kind == "select":
        control.options = [(each, " ".join(_content(each).split())) for each in _walk(node) if each.tag == "option"]
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
    """The words inside, as they name it; controls inside are not part of it."""
    return " ".join(_raw(node).split())


def _raw(node: Node) -> str:
    if not node.tag:
        return node.text
    if "hidden" in node.given:
        return ""
    inner = "".join(_raw(child) for child in node.children if child.tag not in _HELD)
    return f" {inner} " if node.tag in _BREAKS else inner
