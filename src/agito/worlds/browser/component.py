"""A browser as a component of a world: tools over what the page shows, judged by what the site behind it
holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio

from agito.errors import InvalidArguments
from agito.types import Call, Exactness
from agito.worlds.browser.page import Site, Unusable
from agito.worlds.browser.tree import CHOICES, Element, View
from agito.worlds.component import Answer, Component, overran, spec, text_of, wrong
from agito.worlds.http1 import Request, Response

CLICK = spec("click", "Click an element, by its number or its name.", ["element"])
FILL = spec(
    "fill", "Replace the text of a field; the element by its number or its name.", ["element", "text"]
)
SELECT = spec(
    "select",
    "Choose an option of a choice, by its label; the element by its number or its name.",
    ["element", "option"],
)
BACK = spec("back", "Go back to the page before.")
LOOK = spec("look", "Read the page again.")
PRESS = spec(
    "press", "Press a key, such as Enter, Tab or ArrowDown, with an element in focus.", ["element", "key"]
)
SCROLL = spec("scroll", "Scroll the page, up or down.", ["direction"])
UPLOAD = spec(
    "upload", "Give a file of this name and text to an element that takes one.", ["element", "name", "text"]
)
TOOLS = (CLICK, FILL, SELECT, BACK, LOOK)  # enough for forms and links
MORE_TOOLS = (PRESS, SCROLL, UPLOAD)
_LONGEST = 4000  # characters that one call may fill in
_LONGEST_FILE = 1 << 16
_CLOSE_S = 5.0


class Tab(Protocol):
    """A page, in Chromium or without it. Raises `Unusable` if an element does not allow the action."""

    @property
    def url(self) -> str: ...
    async def goto(self, url: str) -> View: ...
    async def click(self, element: Element) -> View: ...
    async def fill(self, element: Element, text: str) -> View: ...
    async def select(self, element: Element, label: str) -> View: ...
    async def press(self, element: Element, key: str) -> View: ...
    async def scroll(self, direction: str) -> View: ...
    async def upload(self, element: Element, name: str, data: bytes) -> View: ...
    async def back(self) -> View: ...
    async def look(self) -> View: ...
    async def close(self) -> None: ...


class Tabs(Protocol):
    async def page(self, site: Site) -> Tab: ...


class Served(Protocol):
    """A site, on the trusted side. Its state is what is judged, never what a page shows."""

    async def respond(self, request: Request) -> Response: ...
    def state(self) -> str:
        """The state in canonical form."""
        ...


class Browser:
    """Implements `Component`. The first call opens it; a fork replays the calls on a fresh site, which gives
    the same state.
    """

    name = "browser"
    tools = (*TOOLS, *MORE_TOOLS)
    exactness = Exactness.REPLAY

    def __init__(self, tabs: Tabs, make: Callable[[], Served], start: str) -> None:
        self._tabs, self._make, self._start = tabs, make, start
        self._site = make()
        self._tab: Tab | None = None
        self._has_begun = False
        self._view = View(text="", elements=())
        self._past: list[Call] = []

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """Raises `SandboxFailure` if the browser itself fails. Its start does not count against the call's
        time.
        """
        tab = await self._page()
        began = time.monotonic()
        with anyio.move_on_after(timeout_s):
            is_new = await self._begin(tab)
            self._past.append(call)
            try:
                if not (is_new and call.tool == LOOK.name):  # a page already shown by goto is not read twice
                    self._view = await self._do(tab, call)
            except Unusable as problem:
                return wrong(problem)
            return Answer(text=self._view.text)
        return overran(began)

    async def snapshot(self) -> object:
        return tuple(self._past)

    async def fork(self, token: object) -> Component:
        assert isinstance(token, tuple)
        child = Browser(self._tabs, self._make, self._start)
        for call in token:  # pyright: ignore[reportUnknownVariableType]
            assert isinstance(call, Call)
            try:
                await child.call(call, timeout_s=60.0)
            except InvalidArguments:
                continue  # it was refused the first time, too
        return child

    async def digest(self) -> str:
        state = (self._site.state(), self._tab.url if self._tab is not None else "", self._view.text)
        return hashlib.blake2b(repr(state).encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        await self.close()
        return {"site": self._site.state().encode()}

    async def close(self) -> None:
        if self._tab is not None:
            tab, self._tab = self._tab, None
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await tab.close()

    async def _page(self) -> Tab:
        if self._tab is None:
            self._tab = await self._tabs.page(self._site.respond)
        return self._tab

    async def _begin(self, tab: Tab) -> bool:
        """Loads the start page; whether it did so now."""
        if self._has_begun:
            return False
        self._has_begun = True
        self._view = await tab.goto(self._start)
        return True

    async def _do(self, tab: Tab, call: Call) -> View:
        """Raises `InvalidArguments`."""
        if call.tool == LOOK.name:
            return await tab.look()
        if call.tool == BACK.name:
            return await tab.back()
        if call.tool == SCROLL.name:
            return await tab.scroll(text_of(call, "direction"))
        element = self._element(call)
        if call.tool == FILL.name:
            lines = text_of(call, "text").splitlines()
            return await tab.fill(
                element, _short(call, "text", ("\n" if element.has_lines else " ").join(lines), _LONGEST)
            )
        if call.tool == SELECT.name:
            return await tab.select(element, text_of(call, "option"))
        if call.tool == PRESS.name:
            return await tab.press(element, text_of(call, "key"))
        if call.tool == UPLOAD.name:
            return await tab.upload(
                element, _file_name(call), _short(call, "text", text_of(call, "text"), _LONGEST_FILE).encode()
            )
        if element.role in CHOICES and element.options:
            raise InvalidArguments(f"{element.name} is a choice: use select")
        return await tab.click(element)

    def _element(self, call: Call) -> Element:
        """By number, or the first with that name."""
        given, elements = call.arguments.get("element"), self._view.elements
        text = str(given).strip() if isinstance(given, str | int) and not isinstance(given, bool) else ""
        if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= len(elements):
            return elements[int(text) - 1]
        found = next((element for element in elements if text and element.name == text), None)
        if found is None:
            raise InvalidArguments(f"element: a number from 1 to {len(elements)}, or a name")
        return found


def _short(call: Call, name: str, text: str, most: int) -> str:
    if len(text) > most:
        raise InvalidArguments(f"{call.tool}: `{name}` has {len(text)} characters, at most {most}")
    return text


def _file_name(call: Call) -> str:
    name = text_of(call, "name")
    if not 0 < len(name) <= 100 or name in (".", "..") or not name.isprintable() or "/" in name:
        raise InvalidArguments(
            f"{call.tool}: `name` is a file's name of at most 100 characters, without a folder"
        )
    return name
