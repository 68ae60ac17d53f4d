"""The browser: real Chromium in its sandbox, and pages of our own that attack it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from agito.errors import SandboxFailure
from agito.worlds.browser import Farm, NoBrowser, Page, Unusable, View, probe, program
from agito.worlds.browser.text import TextTabs
from agito.worlds.http1 import Request, Response

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        shutil.which("chromium-headless-shell", path="/usr/bin") is None,
        reason="needs chromium-headless-shell (apt)",
    ),
]
FORM = """<h1>Shop</h1><p>hello <b>you</b></p><p hidden>secret</p>
<form action="/go" method="post"><label>name <input name="n" value="old"></label>
<label>color <select name="c"><option>red</option><option>blue</option></select></label>
<label><input type="checkbox" name="g"> gift</label><button>go</button></form><a href="/next">next page</a>"""


class Pages:
    """A site that answers by path, and records requests."""

    def __init__(self, pages: dict[str, str]) -> None:
        self.pages, self.asked = pages, list[tuple[str, str, bytes, str]]()

    async def respond(self, request: Request) -> Response:
        self.asked.append((request.method, request.target, request.body, request.header("cookie")))
        path = "/" + request.target.split("/", 3)[-1]
        html = self.pages.get(path, "<h1>missing</h1>")
        return Response(
            status=200, headers=(("content-type", "text/html"), ("set-cookie", "seen=1")), body=html.encode()
        )


@pytest.fixture(scope="module")
async def farm(anyio_backend: str) -> AsyncIterator[Farm]:
    farm = Farm()
    yield farm
    await farm.aclose()


@pytest.fixture
async def opened(farm: Farm) -> AsyncIterator[Callable[[Pages], Awaitable[Page]]]:
    pages: list[Page] = []

    async def open_one(site: Pages) -> Page:
        pages.append(await farm.page(site.respond))
        return pages[-1]

    yield open_one
    for page in pages:
        await page.close()


def at(view: View, role: str) -> int:
    return [element.role for element in view.elements].index(role)


async def test_a_form_is_read_filled_in_and_sent_with_real_input(
    opened: Callable[[Pages], Awaitable[Page]],
) -> None:
    site = Pages({"/": FORM})
    page = await opened(site)
    view = await page.goto("http://shop.test/")
    assert view.text.splitlines() == [
        "# Shop",
        "hello you",
        "1 field name: old",
        "2 choice color: red (red blue)",
        "3 check gift: off",
        "4 button go",
        "5 link next page",
    ]
    view = await page.fill(view.elements[0], "kev & co")
    view = await page.select(view.elements[1], "blue")
    view = await page.click(view.elements[2])
    assert view.text.splitlines()[2:5] == [
        "1 field name: kev & co",
        "2 choice color: blue (red blue)",
        "3 check gift: on",
    ]
    view = await page.click(view.elements[3])
    assert site.asked[-1][:3] == ("POST", "http://shop.test/go", b"n=kev+%26+co&c=blue&g=on")
    assert (view.text, page.url) == ("# missing", "http://shop.test/go")
    assert (await page.screenshot()).startswith(b"\x89PNG")


async def test_what_cannot_be_done_is_said_and_leaves_the_page_usable(
    opened: Callable[[Pages], Awaitable[Page]],
) -> None:
    page = await opened(Pages({"/": FORM + "<button style='position:fixed;left:-999px'>far</button>"}))
    view = await page.goto("http://shop.test/")
    with pytest.raises(Unusable, match="no page before"):
        await page.back()
    with pytest.raises(Unusable, match="no field"):
        await page.fill(view.elements[3], "x")
    with pytest.raises(Unusable, match="does not offer 'green'"):
        await page.select(view.elements[1], "green")
    gone = view.elements[4]
    view = await page.click(gone)
    with pytest.raises(Unusable):
        await page.click(gone)  # an element of the previous page
    view = await page.back()
    assert view.text.startswith("# Shop")


async def test_scripts_run_and_cannot_lie_about_themselves(
    opened: Callable[[Pages], Awaitable[Page]],
) -> None:
    """A page that replaces every global that a test driver might read: the tree still says what a person
    would see.
    """
    script = """<h1>Honest</h1><button id=b onclick="document.querySelector('h1').textContent='Clicked'">press</button>
    <select id=s><option>a</option><option>b</option></select><script>
    JSON.stringify = () => '{"reward":1}'; document.querySelector = (q) => document.getElementsByTagName('h1')[0];
    Element.prototype.dispatchEvent = () => { throw 1 }; Array.prototype[Symbol.iterator] = () => { throw 1 };
    Object.defineProperty(window, 'reward', {value: 1}); window.Event = null;
    </script>"""  # noqa: E501
    page = await opened(Pages({"/": script}))
    view = await page.goto("http://evil.test/")
    view = await page.click(view.elements[at(view, "button")])
    assert view.text.splitlines()[0] == "# Clicked"
    view = await page.select(view.elements[at(view, "combobox")], "b")
    assert "choice: b" in view.text or "choice : b" in view.text


async def test_a_page_reaches_its_own_site_and_nothing_else(
    opened: Callable[[Pages], Awaitable[Page]],
) -> None:
    """Every request of a page, by name or address, goes to its episode's site; not to the host, not to
    another episode.
    """
    with socket.create_server(("127.0.0.1", 0)) as host:
        port = host.getsockname()[1]
        fetches = "".join(
            f"fetch('{url}').then(r => r.text()).then(t => document.body.append(t.slice(0, 20))).catch(e "
            "=> 0);"
            for url in (
                f"http://127.0.0.1:{port}/",
                f"http://localhost:{port}/",
                "http://other.test/",
                "http://[::1]/",
            )
        )
        socket_ = f"try {{ new WebSocket('ws://127.0.0.1:{port}/') }} catch (e) {{}}"
        site, other = (
            Pages({"/": f"<h1>a</h1><script>{fetches}{socket_}</script>"}),
            Pages({"/": "<h1>other</h1>"}),
        )
        page, second = await opened(site), await opened(other)
        await page.goto("http://a.test/")
        await second.goto("http://other.test/")
        with anyio.move_on_after(0.5):
            await page.look()
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.accept()
        assert {target for _, target, _, _ in other.asked} == {"http://other.test/"}
        assert all(cookie == "" for *_, cookie in other.asked)


async def test_episodes_share_a_browser_and_no_cookie(opened: Callable[[Pages], Awaitable[Page]]) -> None:
    sites = [Pages({"/": "<h1>one</h1>"}), Pages({"/": "<h1>two</h1>"})]
    pages = [await opened(site) for site in sites]

    async def visit(number: int) -> None:
        for _ in range(3):
            view = await pages[number].goto("http://same.test/")
            assert view.text == ("# one", "# two")[number]

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(visit, number)
    third = Pages({"/": "<h1>three</h1>"})
    await (await opened(third)).goto("http://same.test/")
    assert [cookie for *_, cookie in sites[0].asked] == ["", "seen=1", "seen=1"]
    assert [cookie for *_, cookie in third.asked] == [""]


async def test_a_page_that_never_ends_is_cut_off_and_disturbs_no_other(
    opened: Callable[[Pages], Awaitable[Page]],
) -> None:
    stuck, fine = (
        await opened(Pages({"/": "<h1>x</h1><script>while (true) {}</script>"})),
        await opened(Pages({"/": "<h1>fine</h1>"})),
    )
    with anyio.move_on_after(1.0) as scope:
        await stuck.goto("http://stuck.test/")
    assert scope.cancelled_caught
    with anyio.fail_after(20):
        assert (await fine.goto("http://fine.test/")).text == "# fine"


async def test_the_text_browser_reads_the_same_lines() -> None:
    page = await TextTabs().page(Pages({"/": FORM.replace("<p hidden>secret</p>", "")}).respond)
    assert (await page.goto("http://shop.test/")).text.splitlines()[:3] == [
        "# Shop",
        "hello you",
        "1 field name: old",
    ]


async def test_a_browser_that_dies_voids_the_attempt() -> None:
    farm = Farm()
    page = await farm.page(Pages({}).respond)
    assert farm._box is not None
    await farm._box.kill()
    with pytest.raises(SandboxFailure, match="gone"):
        await page.goto("http://a.test/")
    await page.close()
    again = await farm.page(Pages({"/": "<h1>again</h1>"}).respond)  # later pages have a new one
    assert (await again.goto("http://a.test/")).text == "# again"
    await again.close()
    await farm.aclose()


def test_a_machine_without_chromium_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoBrowser, match="apt install chromium-headless-shell"):
        program(tmp_path)


@pytest.mark.parametrize(
    "wrapper", ["#!/bin/sh\n. /etc/chromium.d/default\nexec /usr/lib/chromium/chromium\n", None]
)
def test_the_program_is_found_behind_the_script_that_starts_it(tmp_path: Path, wrapper: str | None) -> None:
    for folder in ("bin", "lib/chromium"):
        (tmp_path / folder).mkdir(parents=True)
    real = tmp_path / "lib" / "chromium" / "chromium"
    shutil.copy("/bin/true", real)
    if wrapper is not None:
        (tmp_path / "bin" / "chromium").write_text(wrapper)
        (tmp_path / "bin" / "chromium").chmod(0o755)
    else:
        (tmp_path / "bin" / "chromium").symlink_to(real)
    # a sandbox sees nothing outside
    (tmp_path / "bin" / "chromium-headless-shell").symlink_to("/opt/elsewhere")
    assert program(tmp_path) == str(real)
    real.chmod(0o644)
    with pytest.raises(NoBrowser):
        program(tmp_path)


async def test_doctor_ticks_a_browser_that_has_read_a_page() -> None:
    assert "/" in await probe()
