"""One Chromium in its own sandbox, shared by episodes; each episode gets its own context."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio

from agito.errors import AgitoError, SandboxFailure
from agito.protocols import Sandbox, SandboxSpec
from agito.worlds.browser.cdp import Link
from agito.worlds.browser.page import Page, Site
from agito.worlds.http1 import Request, Response
from agito.worlds.sandbox import Pool

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_LIBRARIES = ("lib", "lib64", "local/lib")
REMEDY = "install Chromium beneath /usr: apt install chromium-headless-shell (Debian), or chromium"
_SPEC = SandboxSpec(work_mb=16, tmp_mb=1024, mem_mb=8192, procs=4096, fsize_mb=512, cpu_s=10_000_000)
_FLAGS = (
    "--headless --no-sandbox --remote-debugging-pipe --user-data-dir=/tmp/profile --window-size=800,1200 "
    "--hide-scrollbars --mute-audio"
    " --no-first-run --disable-gpu --in-process-gpu --disable-extensions --disable-background-networking "
    "--disable-component-update"
    " --disable-sync --disable-translate --disable-breakpad --disable-crash-reporter "
    "--disable-renderer-backgrounding"
    " --disable-backgrounding-occluded-windows --process-per-site --proxy-server=127.0.0.1:9 "
    "--disable-popup-blocking"
    # keeps all frames of a page in its tree
    " --disable-site-isolation-trials --disable-features=IsolateOrigins,site-per-process"
    ",BackForwardCache,PaintHolding,HttpsUpgrades,Translate,MediaRouter,OptimizationHints"
)
_START_S = 30.0
_STEP_S = 20.0


class NoBrowser(AgitoError):
    """This machine has no Chromium that a sandbox can run."""

    exit_code = 6


def program(root: Path = Path("/usr")) -> str:
    """The path of the browser below `root`. Raises `NoBrowser`, with the remedy.

    Distributions wrap the program in a script that reads files from outside; a sandbox starts the program
    itself.
    """
    for name in PROGRAMS:
        for folder in (
            "local/bin",
            "bin",
            *(f"{lib}/{each}" for lib in _LIBRARIES for each in (name, "chromium", "chromium-browser")),
        ):
            found = (root / folder / name).resolve()
            if (
                found.is_relative_to(root)
                and os.access(found, os.X_OK)
                and found.is_file()
                and _is_program(found)
            ):
                return str(found)
    raise NoBrowser(f"no Chromium on this machine: {REMEDY}")


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


async def probe() -> str:
    """The browser's version, found by reading a page with it. Raises `NoBrowser`, `NoIsolation` and
    `SandboxFailure`.
    """
    farm = Farm()

    async def site(request: Request) -> Response:
        return Response(status=200, headers=(("content-type", "text/html"),), body=b"<h1>ready</h1>")

    try:
        page = await farm.page(site)
        with anyio.fail_after(_STEP_S):
            view = await page.goto("http://probe.test/")
        await page.close()
        if view.text != "# ready":
            raise SandboxFailure(
                f"{program()} started, but it shows {view.text[:80]!r} where a page says `ready`"
            )
        return farm.version
    finally:
        await farm.aclose()


class Farm:
    """Opened by its first page, and reopened if it died.

    Chromium's own sandbox is off inside ours. Pages of all episodes share its processes but no state.
    """

    def __init__(self, *, flags: str = "") -> None:
        self._flags = flags
        self._pool: Pool | None = None
        self._box: Sandbox | None = None
        self._link: Link | None = None
        self._opening = anyio.Lock()
        self._pages = WeakValueDictionary[str, Page]()  # by context
        self._of: dict[str, Page] = {}  # by window session
        self.version = ""

    async def page(self, site: Site) -> Page:
        """A page in a fresh context; `site` answers every request, whatever its host.

        Raises `NoBrowser` and `SandboxFailure`.
        """
        link, box = await self._open()
        with anyio.move_on_after(_STEP_S):
            listener = await box.listen()
            try:
                context = await _new_context(link, listener.getsockname()[1])
            except BaseException:
                listener.close()
                raise
            page = self._pages[context] = Page(link, context, listener, site, self._put)
            try:
                await link.command("Target.createTarget", url="about:blank", browserContextId=context)
                await page.begin()
            except BaseException:  # given up, too: the browser goes on for others
                with anyio.move_on_after(_STEP_S, shield=True):
                    await page.close()
                raise
            return page
        raise SandboxFailure(f"the browser has not opened a page for {_STEP_S:g} s")

    async def _put(self, name: str, data: bytes) -> str:
        assert self._box is not None
        await self._box.write({f"uploads/{name}": data})
        return f"/work/uploads/{name}"

    def _hear(self, method: str, parameters: dict[str, Any]) -> None:
        """Tells each page about windows of its own that open and close."""
        if method == "Target.attachedToTarget":
            about = parameters["targetInfo"]
            page = self._pages.get(about.get("browserContextId", ""))
            if page is not None:
                self._of[parameters["sessionId"]] = page
                page.arrive(about["targetId"], parameters["sessionId"])
        elif method == "Target.detachedFromTarget":
            page = self._of.pop(parameters["sessionId"], None)
            if page is not None:
                page.leave(parameters["sessionId"])

    async def aclose(self) -> None:
        """Idempotent."""
        if self._link is not None:
            self._link.close()
        if self._pool is not None:
            await self._pool.aclose()
        self._pool = self._box = self._link = None
        self._of.clear()

    async def _open(self) -> tuple[Link, Sandbox]:
        async with self._opening:
            if self._link is None or self._box is None or self._link.is_gone:
                await self.aclose()
                self._box, self._link = await self._launch()
            return self._link, self._box

    async def _launch(self) -> tuple[Sandbox, Link]:
        name = program()
        self._pool = await Pool.open(warm=0)
        box = await self._pool.start(_SPEC)
        pipes = "exec 3<&0 4>&1 </dev/null >/dev/null 2>/tmp/stderr"
        link = Link(await box.launch(f"{pipes}; exec {name} {_FLAGS} {self._flags}"))
        with anyio.move_on_after(_START_S):
            try:
                answer: Mapping[str, str] = await link.command("Browser.getVersion")
            except SandboxFailure:
                said = (await box.sh("tail -c 500 /tmp/stderr")).output.decode("utf-8", "replace")
                raise SandboxFailure(f"{name} did not start: {said}") from None
            self.version = answer["product"]
            link.listen("", self._hear)
            windows = [{"type": "page", "exclude": False}, {"exclude": True}]
            await link.command(
                "Target.setAutoAttach",
                autoAttach=True,
                waitForDebuggerOnStart=True,
                flatten=True,
                filter=windows,
            )
            return box, link
        raise SandboxFailure(f"{name} has not started for {_START_S:g} s")


async def _new_context(link: Link, port: int) -> str:
    """Whoever gives it up still learns its name, by which it can be disposed of."""
    proxy = {"proxyServer": f"http://127.0.0.1:{port}", "proxyBypassList": "<-loopback>"}
    with anyio.move_on_after(_STEP_S, shield=True):
        made = await link.command("Target.createBrowserContext", disposeOnDetach=True, **proxy)
        return str(made["browserContextId"])
    raise SandboxFailure(f"the browser has not made a context for {_STEP_S:g} s")
