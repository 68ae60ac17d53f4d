"""The page of one episode: navigation, what it shows, and real input to it.

A window that it opens is followed; going back from its first page closes it. A dialog is shown and waits for
an answer. Between actions the page's requests are not answered, so it stands still.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream

from agito.errors import InvalidArguments, SandboxFailure
from agito.worlds.browser import keys
from agito.worlds.browser.cdp import Link, Refused
from agito.worlds.browser.tab import ANSWER, CANCEL, OK, Interrupted, Sheet
from agito.worlds.browser.tree import CHOICES, FIELDS, UPLOAD, VALUE_FIELDS, Element, Frame, View, read_frame
from agito.worlds.http1 import Request, Response, Server, meanwhile

T = TypeVar("T")
Site = Callable[[Request], Awaitable[Response]]  # request targets are whole URLs
_SEND_S = 10.0
_MOST_SHEETS, _MOST_FRAMES, _MOST_UPLOADS, _MOST_MESSAGES = 8, 32, 20, 20


class Unusable(InvalidArguments):
    """The element does not allow this action; the message is for the policy."""


class Put(Protocol):
    """Writes a file where the browser finds it; returns its path."""

    async def __call__(self, name: str, data: bytes) -> str: ...


class Page:
    """A page in its own context. Raises `SandboxFailure` if the browser is gone; deadlines are the
    caller's.
    """

    def __init__(self, link: Link, context: str, listener: socket.socket, site: Site, put: Put) -> None:
        self._link, self._context, self._listener, self._site, self._put = link, context, listener, site, put
        self._sheets: list[Sheet] = []  # the last one is shown
        self._arrived: list[Sheet] = []  # windows opened since
        self._answer_text: str | None = None  # answer to a prompt; None for its default
        self._messages: list[str] = []  # messages of alerts
        self._num_uploads = 0
        self._is_open = True

    @property
    def url(self) -> str:
        return self._sheets[-1].url if self._sheets else "about:blank"

    def arrive(self, target: str, session: str) -> None:
        """Called when a window opens in this context."""
        sheet = Sheet(self._link, target, session, lambda: bool(self._arrived) and sheet in self._sheets)
        self._arrived.append(sheet)

    def leave(self, session: str) -> None:
        """Called when a window has closed, by itself or by us."""
        for sheet in (*self._sheets, *self._arrived):
            if sheet.session == session:
                sheet.end = sheet.end or "the page is closed"
                sheet.forget()

    async def begin(self) -> None:
        """Waits for the first window."""
        await self._link.until(lambda: bool(self._arrived))
        await self._welcome()

    async def goto(self, url: str) -> View:
        async def action() -> None:
            sheet = self._sheets[-1]
            sheet.loading.add(sheet.frame)
            answer = await sheet.do("Page.navigate", url=url)
            if "errorText" in answer:
                sheet.loading.clear()

        return await self._act(action)

    async def click(self, element: Element) -> View:
        """Raises `Unusable`."""
        if self._sheets[-1].dialog is not None:
            return await self._click_dialog(element)
        _refuse(element)
        if element.role == UPLOAD:
            raise Unusable(f"{_called(element)} takes a file: use upload")
        return await self._act(lambda: self._press_at(element.node, _called(element)))

    async def fill(self, element: Element, text: str) -> View:
        """Replaces a field's text, as typing over a selection does. Raises `Unusable`."""
        if element.node == ANSWER and self._sheets[-1].dialog is not None:
            self._answer_text = text
            return await self._view()
        self._free(element)
        if element.role not in FIELDS:
            raise Unusable(f"{_called(element)} is no field")
        return await self._act(
            lambda: self._set(element, text) if element.role in VALUE_FIELDS else self._type(element, text)
        )

    async def select(self, element: Element, label: str) -> View:
        """Chooses an option; in a multiple choice, toggles it. Raises `Unusable`."""
        self._free(element)
        if label not in element.options or element.role not in CHOICES | FIELDS:
            raise Unusable(f"{_called(element)} does not offer {label!r}")
        if element.role in FIELDS:  # a suggestion
            return await self.fill(element, label)

        async def action() -> None:
            if await self._sheets[-1].call(element, keys.CHOOSE, label) is None:
                at = element.options.index(label)
                await self._press_at(element.option_nodes[at], label)

        return await self._act(action)

    async def press(self, element: Element, key: str) -> View:
        """Raises `Unusable`."""
        self._free(element)
        stroke = keys.KEYS.get(key)
        if stroke is None:
            raise Unusable(f"{key[:20]!r}: the keys are {', '.join(keys.KEYS)}")

        async def action() -> None:
            await self._sheets[-1].do("DOM.focus", backendNodeId=element.node)
            await self._stroke(stroke)

        return await self._act(action)

    async def scroll(self, direction: str) -> View:
        """Raises `Unusable`."""
        by = {"down": 0.8, "up": -0.8}.get(direction)
        if by is None:
            raise Unusable("direction: up or down")
        self._free(None)

        async def action() -> None:
            sheet = self._sheets[-1]
            world = await sheet.do("Page.createIsolatedWorld", frameId=sheet.frame)
            where = {"contextId": world["executionContextId"], "awaitPromise": True}
            await sheet.do("Runtime.evaluate", expression=keys.SCROLL.format(by=by), **where)

        return await self._act(action)

    async def upload(self, element: Element, name: str, data: bytes) -> View:
        """Raises `Unusable`."""
        self._free(element)
        if element.role != UPLOAD:
            raise Unusable(f"{_called(element)} takes no file")
        if self._num_uploads >= _MOST_UPLOADS:
            raise Unusable(f"no more than {_MOST_UPLOADS} files")
        self._num_uploads += 1
        path = await self._put(f"{self._context}/{self._num_uploads}/{name}", data)
        return await self._act(
            lambda: self._ask("DOM.setFileInputFiles", files=[path], backendNodeId=element.node)
        )

    async def back(self) -> View:
        """Goes back; from the first page of a window, to the one that opened it. Raises `Unusable` if there
        is nothing to go back to.
        """
        self._free(None)
        sheet = self._sheets[-1]
        entries: list[dict[str, Any]] = []
        at = -1
        with suppress(Refused):
            history = await sheet.do("Page.getNavigationHistory")
            entries, at = history["entries"], history["currentIndex"] - 1
        if at >= 0 and entries[at]["url"] != "about:blank":

            async def action() -> None:
                sheet.loading.add(sheet.frame)
                await sheet.do("Page.navigateToHistoryEntry", entryId=entries[at]["id"])

            return await self._act(action)
        if len(self._sheets) < 2:
            raise Unusable("there is no page before this one")
        return await self._act(lambda: self._close_sheet(sheet))

    async def look(self) -> View:
        dialog = self._shown().dialog
        if self._arrived or (dialog is not None and dialog.kind == "alert"):
            return await self._act(anyio.lowlevel.checkpoint)
        return await self._view()

    async def _view(self) -> View:
        sheet = self._shown()
        if sheet.dialog is None:
            try:
                return self._with_messages(await self._read(sheet))
            except Interrupted:
                pass
            except Unusable:  # a window may close itself while it is read
                if self._shown() is sheet:
                    raise
                return await self._view()
        return self._with_messages(
            sheet.dialog.view(self._answer_text) if sheet.dialog else View(text="", elements=())
        )

    def _with_messages(self, view: View) -> View:
        """The view after the messages of alerts."""
        said, self._messages = self._messages, []
        lines = [f"# dialog: {' '.join(each.split())}" for each in said]
        return replace(view, text="\n".join([*lines, view.text] if view.text else lines))

    async def screenshot(self) -> bytes:
        """A PNG, for vision models."""
        return base64.b64decode((await self._sheets[-1].do("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        """Deletes its cookies, history and storage too. Idempotent; never raises."""
        if self._is_open:
            self._is_open = False
            for sheet in (*self._sheets, *self._arrived):
                sheet.forget()
            self._listener.close()
            with suppress(SandboxFailure, Refused):  # the browser is gone, and the page with it
                await self._link.command("Target.disposeBrowserContext", browserContextId=self._context)

    async def _act(self, action: Callable[[], Awaitable[object]]) -> View:
        """Serves the page's requests while the action runs and its effects load."""

        async def whole() -> View:
            try:
                with suppress(Interrupted):
                    await action()
                while not await self._settle():
                    continue
            except Refused as error:
                raise Unusable(str(error)) from None
            return await self._view()

        return await meanwhile(self._listener, self._answer, whole)

    async def _settle(self) -> bool:
        """Waits until the shown page, which may be another one by now, stands still or a dialog needs a
        choice. False: not yet.
        """
        sheet = await self._welcome()
        if sheet.dialog is not None:
            if sheet.dialog.kind != "alert" or len(self._messages) >= _MOST_MESSAGES:
                return True
            self._messages.append(sheet.dialog.message)
            with suppress(Interrupted, Refused):
                await sheet.answer(accept=True, text=None)
            return False
        with suppress(Interrupted, Refused):  # the page is already leaving
            # queued after everything that the action triggered in the page
            await sheet.do("Runtime.evaluate", expression="0")
        await self._link.command("Browser.getVersion")  # and after the windows that it opened
        await self._link.until(lambda: not sheet.loading or sheet.is_held or bool(sheet.end))
        return not sheet.is_held and self._shown() is sheet

    async def _welcome(self) -> Sheet:
        """Shows the newest window."""
        while self._arrived:
            sheet = self._arrived.pop(0)
            openers = tuple(self._sheets)
            self._sheets.append(sheet)
            with suppress(Refused, Interrupted):  # it has closed itself, or begins with a dialog
                await sheet.begin()
            if openers:  # tells where the window will go once it continues
                with suppress(Refused, Interrupted):
                    await openers[-1].do("Runtime.evaluate", expression="0")
            wanted = [each.opens.pop(0) for each in openers if each.opens]
            if wanted and wanted[0] not in ("", "about:blank") and sheet.url == "about:blank":
                sheet.loading.add(sheet.frame)  # it will go there, though it may not have begun
            if len(self._sheets) > _MOST_SHEETS:
                await self._close_sheet(sheet)
        return self._shown()

    def _shown(self) -> Sheet:
        while len(self._sheets) > 1 and self._sheets[-1].end == "the page is closed":
            self._sheets.pop()
        return self._sheets[-1]

    async def _close_sheet(self, sheet: Sheet) -> None:
        await self._link.command("Target.closeTarget", targetId=sheet.frame)
        await self._link.until(lambda: bool(sheet.end))
        self._shown()

    async def _read(self, sheet: Sheet) -> View:
        """Raises `Unusable` if the page can show nothing any more."""
        try:
            frame = await self._frame(sheet)
            clickable = await self._clickable(sheet)
            view = read_frame(frame, clickable=clickable)
            lists = {
                each.node: await self._suggestions(sheet, each)
                for each in view.elements
                if each.role == "textbox" and each.has_list
            }
            return read_frame(frame, clickable=clickable, suggestions=lists) if any(lists.values()) else view
        except Refused as error:
            raise Unusable(f"{error}: go back, or end") from None

    async def _frame(self, sheet: Sheet) -> Frame:
        nodes = (await sheet.do("Accessibility.getFullAXTree"))["nodes"]
        if not any(node.get("role", {}).get("value") == "Iframe" for node in nodes):
            return Frame(nodes=nodes)
        tree = (await sheet.do("Page.getFrameTree"))["frameTree"]
        return Frame(nodes=nodes, inner=await self._inner(sheet, tree, [_MOST_FRAMES]))

    async def _inner(self, sheet: Sheet, tree: Mapping[str, Any], left: list[int]) -> dict[int, Frame]:
        found: dict[int, Frame] = {}
        for child in tree.get("childFrames", ()):
            left[0] -= 1
            if left[0] < 0:
                break
            name = child["frame"]["id"]
            with suppress(Refused):  # it is just being replaced
                owner = await sheet.do("DOM.getFrameOwner", frameId=name)
                nodes = (await sheet.do("Accessibility.getFullAXTree", frameId=name))["nodes"]
                found[owner["backendNodeId"]] = Frame(
                    nodes=nodes, id=name, inner=await self._inner(sheet, child, left)
                )
        return found

    async def _clickable(self, sheet: Sheet) -> frozenset[int]:
        """Elements that listen to clicks but are neither links nor buttons."""
        snapshot = await sheet.do("DOMSnapshot.captureSnapshot", computedStyles=[])
        return frozenset(
            each["nodes"]["backendNodeId"][index]
            for each in snapshot["documents"]
            for index in each["nodes"].get("isClickable", {}).get("index", ())
        )

    async def _suggestions(self, sheet: Sheet, element: Element) -> tuple[str, ...]:
        return tuple(await sheet.call(element, keys.SUGGESTED) or ())

    async def _answer(self, stream: SocketStream) -> None:
        server = Server(stream, most_bytes=1 << 20)
        request = await server.receive()
        if request is not None:
            # a request that reached the site is answered, even if nobody waits
            with anyio.CancelScope(shield=True):
                response = await self._site(request)
                with anyio.move_on_after(_SEND_S):  # to a browser that may read no more of it
                    await server.send(response)

    async def _click_dialog(self, element: Element) -> View:
        if element.node not in (OK, CANCEL):
            raise Unusable("answer the dialog first")
        sheet, text = self._sheets[-1], self._answer_text
        self._answer_text = None
        return await self._act(lambda: sheet.answer(accept=element.node == OK, text=text))

    async def _press_at(self, node: int, called: str) -> None:
        sheet = self._sheets[-1]
        quads: list[list[float]] = []
        with suppress(Refused):  # it is not drawn, or gone
            await sheet.do("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
            quads = (await sheet.do("DOM.getContentQuads", backendNodeId=node))["quads"]
        if not quads:
            raise Unusable(f"{called} cannot be clicked")
        x, y = sum(quads[0][0::2]) / 4, sum(quads[0][1::2]) / 4
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            held = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            await sheet.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    async def _type(self, element: Element, text: str) -> None:
        await self._ask("DOM.focus", backendNodeId=element.node)
        await self._ask("Input.dispatchKeyEvent", type="keyDown", commands=["selectAll"])
        if text:
            await self._ask("Input.insertText", text=text)
        else:
            await self._ask(
                "Input.dispatchKeyEvent", type="keyDown", key="Delete", commands=["deleteForward"]
            )

    async def _set(self, element: Element, text: str) -> None:
        taken = await self._sheets[-1].call(element, keys.SET, text)
        if taken is None:
            raise Unusable(f"{_called(element)} is moved by its keys: use press with ArrowRight or ArrowLeft")
        if not taken:
            raise Unusable(
                f"{_called(element)} does not take {text[:40]!r}{keys.TAKES.get(element.role, '')}"
            )

    async def _stroke(self, stroke: keys.Stroke) -> None:
        named = {"key": stroke.key, "code": stroke.code, "windowsVirtualKeyCode": stroke.number}
        kind = "keyDown" if stroke.text else "rawKeyDown"
        await self._ask(
            "Input.dispatchKeyEvent", type=kind, **named, **({"text": stroke.text} if stroke.text else {})
        )
        await self._ask("Input.dispatchKeyEvent", type="keyUp", **named)

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._sheets[-1].do(method, **parameters)

    def _free(self, element: Element | None) -> None:
        """Raises `Unusable` while a dialog waits, and for disabled elements."""
        if self._sheets[-1].dialog is not None:
            raise Unusable("answer the dialog first")
        if element is not None:
            _refuse(element)


def _refuse(element: Element) -> None:
    if element.problem and not (element.problem == "read-only" and element.role == "checkbox"):
        raise Unusable(f"{_called(element)} is {element.problem}")


def _called(element: Element) -> str:
    return element.name or element.role
