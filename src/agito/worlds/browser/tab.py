"""One tab of the browser: what it loads, its dialogs, whether it still exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agito.worlds.browser.cdp import Link, Refused
from agito.worlds.browser.tree import Element, View

_STARTS = frozenset(
    (
        "Page.frameRequestedNavigation",
        "Page.frameScheduledNavigation",
        "Page.frameStartedLoading",
        "Page.frameStartedNavigating",
    )
)
OK, CANCEL, ANSWER = -1, -2, -3  # node numbers of a dialog's own elements


class Interrupted(Exception):
    """A dialog or a window has opened; the page stands still until it is handled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    kind: str  # alert, confirm, prompt or beforeunload
    message: str
    default: str = ""

    def view(self, answer: str | None) -> View:
        message = " ".join(self.message.split()) or (
            "leave this page?" if self.kind == "beforeunload" else ""
        )
        elements: list[Element] = []
        lines = [f"# dialog: {message}"]
        if self.kind == "prompt":
            elements.append(Element(node=ANSWER, role="textbox", name="answer"))
            lines.append(f"1 field answer: {self.default if answer is None else answer}".rstrip())
        for node, name in ((OK, "OK"), (CANCEL, "Cancel")):
            if node == OK or self.kind != "alert":
                elements.append(Element(node=node, role="button", name=name))
                lines.append(f"{len(elements)} button {name}")
        return View(text="\n".join(lines), elements=tuple(elements))


class Sheet:
    """`frame` is the target's id, which is also the id of the main frame."""

    def __init__(self, link: Link, target: str, session: str, has_news: Callable[[], bool]) -> None:
        self._link, self.frame, self.session, self._has_news = link, target, session, has_news
        self.url = "about:blank"
        self.loading = set[str]()
        self.dialog: Dialog | None = None
        self.opens: list[str] = []  # URLs of windows that it has asked for
        self.end = ""  # why it can do no more
        link.listen(session, self._hear)

    async def begin(self) -> None:
        for domain in ("Page", "DOM", "Accessibility", "Inspector"):
            await self.do(f"{domain}.enable")
        await self.do("Runtime.runIfWaitingForDebugger")

    @property
    def is_held(self) -> bool:
        return self.dialog is not None or self._has_news()

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Raises `Interrupted` and `Refused`."""
        if self.end:
            raise Refused(self.end)
        reply = await self._link.ask(
            method, self.session, lambda: self.is_held or bool(self.end), **parameters
        )
        if reply is None:
            raise Refused(self.end) if self.end else Interrupted
        return reply

    async def call(self, element: Element, function: str, *arguments: Any) -> Any:
        """The result of `function` with the element as `this`, run in an isolated world without scripts of
        the page.
        """
        world = await self.do("Page.createIsolatedWorld", frameId=element.frame or self.frame)
        node = await self.do(
            "DOM.resolveNode", backendNodeId=element.node, executionContextId=world["executionContextId"]
        )
        given = {
            "functionDeclaration": function,
            "arguments": [{"value": each} for each in arguments],
            "returnByValue": True,
        }
        found = await self.do("Runtime.callFunctionOn", objectId=node["object"]["objectId"], **given)
        return found["result"].get("value")

    async def answer(self, *, accept: bool, text: str | None) -> None:
        """`text` answers a prompt; None for its default."""
        dialog, self.dialog = self.dialog, None
        text = dialog.default if text is None and dialog is not None else text or ""
        if dialog is not None and dialog.kind == "beforeunload" and not accept:
            self.loading.clear()
        await self.do("Page.handleJavaScriptDialog", accept=accept, promptText=text)

    def forget(self) -> None:
        self._link.listen(self.session, None)

    def _hear(self, method: str, parameters: dict[str, Any]) -> None:
        frame = parameters.get("frameId", "")
        if method in _STARTS:
            self.loading.add(frame)
        elif method in ("Page.frameStoppedLoading", "Page.frameDetached"):
            self.loading.discard(frame)
        elif method == "Page.frameNavigated" and parameters["frame"]["id"] == self.frame:
            self.url = parameters["frame"]["url"]
        elif method == "Page.windowOpen":
            self.opens.append(parameters["url"])
        elif method == "Page.javascriptDialogOpening":
            self.dialog = Dialog(
                kind=parameters["type"],
                message=parameters["message"],
                default=parameters.get("defaultPrompt") or "",
            )
        elif method == "Page.javascriptDialogClosed":
            self.dialog = None
        elif method == "Inspector.targetCrashed":
            self.end = "the page has crashed"
        elif method == "Inspector.detached":
            self.end = "the page is closed"
