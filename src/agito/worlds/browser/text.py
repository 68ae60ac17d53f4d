"""A text browser for static pages, in process: links, forms, history, and the same lines as Chromium's tree.

For training where Chromium would cost more than the model. It builds the tree that Chromium would build for
the HTML that it knows (`markup`), and refuses any page with scripts, styles, frames or anything else. Tests
compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

from agito.worlds.browser.document import Control, Document
from agito.worlds.browser.markup import Node, Unsupported, parse
from agito.worlds.browser.page import Site, Unusable
from agito.worlds.browser.tree import CHOICES, FIELDS, Element, View
from agito.worlds.http1 import Request, Response

_MOST_REDIRECTS = 8
# other cookie attributes are not supported
_COOKIES = frozenset(("path=/", "httponly", "samesite=lax", "samesite=strict"))


class TextTabs:
    """Makes pages; the counterpart of `Farm`."""

    async def page(self, site: Site) -> TextPage:
        return TextPage(site)

    async def aclose(self) -> None:
        return


@dataclass(slots=True)
class _Entry:
    """A visited page; with `response`, going back shows it as it was."""

    url: str
    response: Response | None
    is_sent: bool = False  # by a form, without a redirect
    is_edited: bool = False  # has fields that Chromium would fill in again


class TextPage:
    """One page of one episode. Raises `Unsupported` for what only Chromium reads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._document = Document(Node("body"))
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
                if each is control or (
                    each.kind == "radio"
                    and each.form is control.form
                    and each.name
                    and each.name == control.name
                ):
                    each.is_on = each is control
        elif (
            control.kind in ("submit", "button")
            and node.given.get("type", "submit").lower() == "submit"
            and control.form is not None
        ):
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
        """Supports only Enter, which submits the form of a field. Raises `Unusable`."""
        node = self._usable(element)
        if key != "Enter" or node.tag != "input" or element.role not in FIELDS:
            raise Unsupported(f"press {key[:20]}")
        control = self._document.control(node)
        own = [
            each for each in self._document.controls if each.form is control.form and control.form is not None
        ]
        buttons = [
            each
            for each in own
            if each.kind in ("submit", "button") and each.node.given.get("type", "submit").lower() == "submit"
        ]
        if buttons and "disabled" not in buttons[0].node.given:
            return await self._submit(buttons[0].form or node, buttons[0])
        num_fields = sum(each.kind in ("text", "search", "tel", "password") for each in own)
        if control.form is not None and not buttons and num_fields == 1:
            return await self._submit(control.form, None)
        return self._document.view()

    async def scroll(self, direction: str) -> View:
        """Does nothing: everything is in view. Raises `Unusable`."""
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
            raise Unsupported(
                "going back to a form that was sent or filled in (autocomplete=off keeps it empty)"
            )
        self._history.pop()
        if entry.response is not None:
            self._document = Document(parse(entry.response.body.decode("utf-8", "replace")))
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

    def _edited(self, control: Control) -> None:
        switches = (
            control.node.given.get("autocomplete"),
            control.form.given.get("autocomplete") if control.form is not None else None,
        )
        if self._history and next((each for each in switches if each is not None), "").lower() != "off":
            self._history[-1].is_edited = True

    async def _submit(self, form: Node, pressed: Control | None) -> View:
        sent = [
            (each.name, each.sent)
            for each in self._document.controls
            if each.form is form
            and each.sent is not None
            and (each is pressed or each.kind not in ("submit", "button"))
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
        self._document = Document(parse(response.body.decode("utf-8", "replace")))
        is_kept = method == "GET" and "no-store" not in response.header("cache-control")
        entry = _Entry(url=url, response=response if is_kept else None, is_sent=method == "POST")
        if self._history and self._history[-1].url == url:  # as in a browser, a reload replaces its entry
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
        if (
            response.status in (204, 205)
            or response.header("refresh")
            or response.header("content-disposition")
        ):
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
