"""Pages that are given up while a browser opens them, against the protocol without a browser."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import cast

import anyio
import pytest
from tests.world.test_outbox import Reader, piped

from agito.protocols import Sandbox
from agito.worlds.browser.cdp import Link
from agito.worlds.browser.shared_chromium import Farm
from agito.worlds.http1 import Request, Response

pytestmark = pytest.mark.anyio


async def site(request: Request) -> Response:
    return Response(status=200)


class Box:
    """Of a sandbox: a listener."""

    async def listen(self, port: int = 0) -> socket.socket:
        self.listener = socket.create_server(("127.0.0.1", 0))
        return self.listener


@dataclass
class Browser:
    """Answers as Chromium does, up to a command at which it gives the one who asked time to leave."""

    reader: Reader
    stops_at: str
    contexts: set[str] = field(default_factory=set)
    reached: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)

    async def run(self) -> None:
        num = 0
        while True:
            await self.reader.messages(num + 1)
            for raw in self.reader.data.split(b"\0")[num:-1]:
                num += 1
                message = json.loads(raw)
                if message["method"] == self.stops_at:
                    self.reached.set()
                    await self.left.wait()
                if message["method"] == "Target.createBrowserContext":
                    self.contexts.add("c1")
                if message["method"] == "Target.disposeBrowserContext":
                    self.contexts.remove(message["params"]["browserContextId"])
                self.reader.say({"id": message["id"], "result": {"browserContextId": "c1"}})


@pytest.mark.parametrize("stops_at", ["Target.createBrowserContext", "Target.createTarget"])
async def test_a_page_that_is_given_up_leaves_no_context_in_the_browser(stops_at: str) -> None:
    async with piped(b"\0") as (service, reader):
        farm, box, browser = Farm(), Box(), Browser(reader, stops_at)
        link = farm._link = Link(service)
        farm._box = cast("Sandbox", box)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(browser.run)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as asking:
                    asking.start_soon(farm.page, site)
                    await browser.reached.wait()
                    asking.cancel_scope.cancel()
                    browser.left.set()
            assert not browser.contexts and box.listener.fileno() < 0
            tasks.cancel_scope.cancel()
        link.close()
