"""One page of one episode: where it goes, what it shows, and real input to what it shows.

Between actions the page's requests stay unanswered, so it stands still.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from anyio.abc import SocketStream

from agito.errors import InvalidArguments, SandboxFailure
from agito.world.browser.cdp import Link, Refused
from agito.world.browser.tree import CHOICES, FIELDS, Element, View, read
from agito.world.http1 import Request, Response, Server, meanwhile

T = TypeVar("T")
Site = Callable[[Request], Awaitable[Response]]  # targets are whole URLs
_STARTS = frozenset(
    ("Page.frameRequestedNavigation", "Page.frameScheduledNavigation", "Page.frameStartedLoading", "Page.frameStartedNavigating")
)
_CHOOSE = """function(label) {
  const found = [...this.options].find(each => each.label.trim() === label);
  if (!found) return false;
  found.selected = true;
  this.dispatchEvent(new Event('input', {bubbles: true}));
  this.dispatchEvent(new Event('change', {bubbles: true}));
  return true;
}"""


class Unusable(InvalidArguments):
    """The element cannot be acted on that way; in words for the policy."""


class Page:
    """A page in a context of its own. Raises `SandboxFailure` when the browser is gone; deadlines are the caller's."""

    def __init__(self, link: Link, context: str, target: str, session: str, listener: socket.socket, site: Site) -> None:
        self._link, self._context, self._target, self._session = link, context, target, session
        self._listener, self._site = listener, site
        self._is_loading = False
        self._is_open = True
        self.url = "about:blank"
        self._frame = target  # of the page itself; Chromium gives both one name
        link.listen(session, self._hear)

    async def goto(self, url: str) -> View:
        async def action() -> None:
            self._is_loading = True
            answer = await self._do("Page.navigate", url=url)
            if "errorText" in answer:
                self._is_loading = False

        return await self._act(action)

    async def click(self, element: Element) -> View:
        async def action() -> None:
            x, y = await self._middle(element)
            for kind in ("mousePressed", "mouseReleased"):
                await self._do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

        return await self._act(action)

    async def fill(self, element: Element, text: str) -> View:
        """Replaces what is in a field, as typing over a selection does. Raises `Unusable`."""
        if element.role not in FIELDS:
            raise Unusable(f"{element.name or element.role} is no field")

        async def action() -> None:
            await self._do("DOM.focus", backendNodeId=element.node)
            await self._do("Input.dispatchKeyEvent", type="keyDown", commands=["selectAll"])
            if text:
                await self._do("Input.insertText", text=text)
            else:
                await self._do("Input.dispatchKeyEvent", type="keyDown", key="Delete", commands=["deleteForward"])

        return await self._act(action)

    async def select(self, element: Element, label: str) -> View:
        """Raises `Unusable`."""
        if element.role not in CHOICES or label not in element.options:
            raise Unusable(f"{element.name or element.role} does not offer {label!r}")

        async def action() -> None:
            world = await self._do("Page.createIsolatedWorld", frameId=self._frame)  # in which no script of the page runs
            node = await self._do("DOM.resolveNode", backendNodeId=element.node, executionContextId=world["executionContextId"])
            chosen = {"functionDeclaration": _CHOOSE, "arguments": [{"value": label}], "returnByValue": True}
            await self._do("Runtime.callFunctionOn", objectId=node["object"]["objectId"], **chosen)

        return await self._act(action)

    async def back(self) -> View:
        """Raises `Unusable` where there is nothing to go back to."""
        history = await self._do("Page.getNavigationHistory")
        at = history["currentIndex"] - 1
        if at < 0 or history["entries"][at]["url"] == "about:blank":
            raise Unusable("there is no page before this one")

        async def action() -> None:
            self._is_loading = True
            await self._do("Page.navigateToHistoryEntry", entryId=history["entries"][at]["id"])

        return await self._act(action)

    async def look(self) -> View:
        return read((await self._do("Accessibility.getFullAXTree"))["nodes"])

    async def screenshot(self) -> bytes:
        """A PNG, for models that see."""
        return base64.b64decode((await self._do("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        """With its cookies, history and storage. Idempotent; never raises."""
        if self._is_open:
            self._is_open = False
            self._link.listen(self._session, None)
            self._listener.close()
            with suppress(SandboxFailure, Refused):  # the browser is gone, and the page with it
                await self._link.command("Target.disposeBrowserContext", browserContextId=self._context)

    async def _act(self, action: Callable[[], Awaitable[None]]) -> View:
        """Serves the page's requests while the action is done and its consequences load."""

        async def whole() -> View:
            try:
                await action()
                with suppress(Refused):  # the page is already going
                    await self._do("Runtime.evaluate", expression="0")  # behind whatever the action set off in the page
                await self._link.until(lambda: not self._is_loading)
                return await self.look()
            except Refused as error:
                raise Unusable(str(error)) from None

        return await meanwhile(self._listener, self._answer, whole)

    async def _answer(self, stream: SocketStream) -> None:
        server = Server(stream, most_bytes=1 << 20)
        request = await server.receive()
        if request is not None:
            with anyio.CancelScope(shield=True):  # what has reached the site is answered, whoever waits
                await server.send(await self._site(request))

    async def _middle(self, element: Element) -> tuple[float, float]:
        quads: list[list[float]] = []
        try:
            await self._do("DOM.scrollIntoViewIfNeeded", backendNodeId=element.node)
            quads = (await self._do("DOM.getContentQuads", backendNodeId=element.node))["quads"]
        except Refused:
            pass  # it is not drawn, or gone
        if not quads:
            raise Unusable(f"{element.name or element.role} cannot be clicked")
        return sum(quads[0][0::2]) / 4, sum(quads[0][1::2]) / 4

    async def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._link.command(method, self._session, **parameters)

    def _hear(self, method: str, parameters: dict[str, Any]) -> None:
        if method in _STARTS and parameters.get("frameId") == self._frame:
            self._is_loading = True
        elif method == "Page.frameStoppedLoading" and parameters.get("frameId") == self._frame:
            self._is_loading = False
        elif method == "Page.frameNavigated" and parameters["frame"]["id"] == self._frame:
            self.url = parameters["frame"]["url"]
