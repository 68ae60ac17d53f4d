"""A browser for static pages, without a process: links, forms, history, and the same lines as Chromium's tree.

For training where Chromium would cost more than the model. It runs no scripts and no styles: a page that needs them must be seen in
Chromium. A test holds the two against each other on the pages of our own environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

from agito.world.browser.page import Site, Unusable
from agito.world.browser.tree import CHOICES, FIELDS, Element, View, line_of
from agito.world.http1 import Request

_BLOCKS = frozenset(("p", "div", "li", "ul", "form", "body", "section", "tr", "table"))
_ROLES = {"text": "textbox", "search": "searchbox", "number": "spinbutton", "checkbox": "checkbox", "submit": "button"}
_MOST_REDIRECTS = 8


@dataclass(slots=True, kw_only=True)
class _Form:
    action: str
    method: str


@dataclass(slots=True, kw_only=True)
class _Thing:
    role: str
    name: str = ""
    key: str = ""  # under which it is sent
    value: str = ""
    is_on: bool = False
    href: str = ""
    form: _Form | None = None
    options: list[str] | None = None


class TextTabs:
    """Where pages come from; the counterpart of `Farm`."""

    async def page(self, site: Site) -> TextPage:
        return TextPage(site)

    async def aclose(self) -> None:
        return


class TextPage:
    """One page of one episode."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._document = _Document("")
        self._history: list[str] = []
        self._is_open = True

    @property
    def url(self) -> str:
        return self._history[-1] if self._history else "about:blank"

    async def goto(self, url: str) -> View:
        return await self._load("GET", url)

    async def click(self, element: Element) -> View:
        thing = self._document.things[element.node]
        if thing.href:
            return await self._load("GET", urljoin(self.url, thing.href))
        if thing.role == "checkbox":
            thing.is_on = not thing.is_on
        elif thing.role == "button" and thing.form is not None:
            return await self._submit(thing)
        return self._document.view()

    async def fill(self, element: Element, text: str) -> View:
        if element.role not in FIELDS:
            raise Unusable(f"{element.name or element.role} is no field")
        self._document.things[element.node].value = text
        return self._document.view()

    async def select(self, element: Element, label: str) -> View:
        if element.role not in CHOICES or label not in element.options:
            raise Unusable(f"{element.name or element.role} does not offer {label!r}")
        self._document.things[element.node].value = label
        return self._document.view()

    async def back(self) -> View:
        if len(self._history) < 2:
            raise Unusable("there is no page before this one")
        self._history.pop()
        return await self._load("GET", self._history.pop())

    async def look(self) -> View:
        return self._document.view()

    async def close(self) -> None:
        return

    async def _submit(self, pressed: _Thing) -> View:
        form = pressed.form
        assert form is not None
        sent = [
            (each.key, "on" if each.role == "checkbox" else each.value)
            for each in self._document.things
            if each.form is form and each.key and (each is pressed or each.role != "button") and (each.role != "checkbox" or each.is_on)
        ]
        url = urljoin(self.url, form.action)
        if form.method == "post":
            return await self._load("POST", url, urlencode(sent).encode())
        return await self._load("GET", f"{url.partition('?')[0]}?{urlencode(sent)}")

    async def _load(self, method: str, url: str, body: bytes = b"") -> View:
        response = await self._site(Request(method=method, target=url, body=body))
        for _ in range(_MOST_REDIRECTS):
            if response.status not in (301, 302, 303):
                break
            url = urljoin(url, response.header("location"))
            response = await self._site(Request(method="GET", target=url))
        if not self._history or self._history[-1] != url:  # a browser replaces an entry by itself
            self._history.append(url)
        self._document = _Document(response.body.decode("utf-8", "replace"))
        return self._document.view()


class _Document(HTMLParser):
    """A parsed page and the state of its fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.things: list[_Thing] = []
        self._lines: list[str | int] = []  # a number: of a thing
        self._words: list[str] = []
        self._form: _Form | None = None
        self._label: list[str] | None = None
        self._open: _Thing | None = None  # whose text is its name
        self._heading: list[str] | None = None
        self._is_hidden = False
        self.feed(text)
        self._end_line()

    def view(self) -> View:
        elements = tuple(
            Element(node=at, role=each.role, name=each.name, options=tuple(each.options or ())) for at, each in enumerate(self.things)
        )
        lines = [line if isinstance(line, str) else self._line(line) for line in self._lines]
        return View(text="\n".join(lines), elements=elements)

    def _line(self, at: int) -> str:
        each = self.things[at]
        return line_of(at + 1, each.role, each.name, each.value, each.is_on, tuple(each.options or ()))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in _BLOCKS:
            self._end_line()
        if tag in ("title", "style", "script"):
            self._is_hidden = True
        elif tag == "h1":
            self._end_line()
            self._heading = []
        elif tag == "form":
            self._form = _Form(action=given.get("action", ""), method=given.get("method", "get").lower())
        elif tag == "label":
            self._label = []
        elif tag == "a":
            self._add(_Thing(role="link", href=given.get("href", "")), is_open=True)
        elif tag == "button":
            self._add(_Thing(role="button", key=given.get("name", ""), value=given.get("value", ""), form=self._form), is_open=True)
        elif tag == "input":
            role = _ROLES.get(given.get("type", "text"), "textbox")
            name = given.get("aria-label") or " ".join(self._label or [])
            self._add(_Thing(role=role, name=name, key=given.get("name", ""), value=given.get("value", ""), form=self._form))
        elif tag == "select":
            name = given.get("aria-label") or " ".join(self._label or [])
            self._add(_Thing(role="combobox", name=name, key=given.get("name", ""), form=self._form, options=[]))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("title", "style", "script"):
            self._is_hidden = False
        elif tag == "h1" and self._heading is not None:
            self._lines.append(f"# {' '.join(self._heading)}")
            self._heading = None
        elif tag == "form":
            self._form = None
        elif tag == "label":
            self._label = None
        elif tag in ("a", "button"):
            self._open = None
        if tag in _BLOCKS:
            self._end_line()

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if not words or self._is_hidden:
            return
        if self.lasttag == "option" and self.things and self.things[-1].options is not None:
            thing = self.things[-1]
            assert thing.options is not None
            thing.options.append(words)
            thing.value = thing.value or words
        elif self._heading is not None:
            self._heading.append(words)
        elif self._open is not None:
            self._open.name = f"{self._open.name} {words}".strip()
        elif self._label is not None:
            self._label.append(words)
        else:
            self._words.append(words)

    def _add(self, thing: _Thing, *, is_open: bool = False) -> None:
        self._end_line()
        self.things.append(thing)
        self._lines.append(len(self.things) - 1)
        self._open = thing if is_open else None

    def _end_line(self) -> None:
        if self._words:
            self._lines.append(" ".join(self._words))
            self._words = []
