"""Pages with every control and behaviour that a person meets, used in Chromium through a policy's text
actions.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from agito.types import AttemptId, Budget, Call, Dialect, Event, Fault, Limits, Task
from agito.worlds.browser import Browser, Farm, NoBrowser, program
from agito.worlds.http1 import Request, Response
from agito.worlds.world import World

pytestmark = pytest.mark.anyio
LEFT = Budget(turns=9, calls=9, tokens=99)

CONTROLS = """<h1>All</h1><p id=log>nothing</p>
<label>text <input></label><label>search <input type=search></label><label>mail <input type=email></label>
<label>tel <input type=tel></label><label>web <input type=url></label><label>number <input type=number></label>
<label>word <input type=password></label>
<label>area <textarea></textarea></label><label>day <input type=date></label><label>time <input type=time></label>
<label>moment <input type=datetime-local></label><label>month <input type=month></label><label>week <input type=week></label>
<label>tint <input type=color></label><label>volume <input type=range min=0 max=10 step=2></label>
<label>one <select><option>red<option>dark blue<option disabled>gold</select></label>
<label>many <select multiple><option>ann<option>bob<option>cat</select></label>
<label>tall <select size=2><option>up<option>down</select></label>
<label>city <input list=l></label><datalist id=l><option>Rome<option>Oslo</datalist>
<div contenteditable role=textbox aria-label=editor>old</div><div contenteditable aria-label=plain>old</div>
<label><input type=checkbox> gift</label><label><input type=radio name=r> yes</label><label><input type=radio name=r> no</label>
<div role=switch aria-checked=false tabindex=0 aria-label=light onclick="this.ariaChecked = true">o</div>
<details><summary>more</summary><p>a secret</p></details>
<div role=tablist><div role=tab aria-selected=false tabindex=0 onclick="this.ariaSelected = true; say('tab')">second</div></div>
<div role=menu><div role=menuitem tabindex=0 onclick="say('menu')">file</div></div>
<div role=listbox aria-label=kinds><div role=option tabindex=0 aria-selected=false onclick="this.ariaSelected = true">soft</div></div>
<input role=combobox aria-label=find oninput="say('find ' + this.value)">
<label>document <input type=file onchange="read(this)"></label><button onclick="say('pressed')">plain</button>
<button disabled>off</button><button aria-pressed=false onclick="this.ariaPressed = true">bold</button>
<label>fixed <input readonly value=stays></label><fieldset disabled><label>shut <input></label></fieldset>
<div onclick="say('box')">a box</div><h2><a href=/next>headed</a></h2><div id=host></div>
<label>enter <input onkeydown="if (event.key == 'Enter') say('entered ' + this.value)"></label>
<div role=slider tabindex=0 aria-label=dial aria-valuenow=1 aria-valuemin=0 aria-valuemax=9
  onkeydown="if (event.key == 'ArrowRight') this.ariaValueNow++">-</div>
<iframe srcdoc='<p>framed</p><button onclick="this.textContent = `pressed inside`">inside</button><label>inner <input></label>'></iframe>
<iframe src="http://other.test/frame"></iframe>
<p>1 button fake</p><p># fake</p><p>\u202e2 link fake</p><p>| odd</p>
<script>
const say = text => document.getElementById('log').textContent = text;
const read = async input => say(input.files[0].name + ': ' + await input.files[0].text());
host.attachShadow({mode: 'closed'}).innerHTML = '<button>shadow</button>';
host.onclick = () => say('shadow');
</script>"""  # noqa: E501
PAGES = {
    "/": CONTROLS,
    "/frame": "<p>other frame</p><button onclick=\"this.textContent = 'other pressed'\">other</button>",
    "/next": "<h1>Next</h1><a href=/>home</a>",
    "/dialogs": """<h1>Dialogs</h1><button onclick="alert('hi there'); this.textContent = 'told'">alert</button>
        <button onclick="this.textContent = 'said ' + confirm('sure?')">confirm</button>
        <button onclick="this.textContent = 'named ' + prompt('name?', 'kev')">prompt</button>""",  # noqa: E501
    "/hello": "<h1>Hello</h1><script>alert('welcome')</script><p>text</p>",
    "/forever": "<h1>Forever</h1><script>while (true) alert('again')</script>",
    "/dirty": """<h1>Dirty</h1><label>f <input></label><a href=/next>leave</a>
        <script>onbeforeunload = event => event.preventDefault()</script>""",
    "/windows": """<h1>Windows</h1><a href=/next target=_blank>blank</a><button onclick="window.open('/next')">open</button>
        <button onclick="window.open('/closing')">brief</button><a href="/down">file</a>""",  # noqa: E501
    "/late": """<h1>Late</h1><button onclick="window.open('/later')">open</button>""",
    "/later": """<h1>Later</h1>
        <button onclick="setTimeout(() => window.close(), performance.now() % 20)">close</button>""",
    "/closing": "<h1>Closing</h1><button onclick='window.close()'>close</button>",
    "/long": """<h1>Long</h1><ul id=l></ul><script>
        const add = () => { for (let i = 0; i < 20; i++) { const li = document.createElement('li');
          li.textContent = 'item ' + l.children.length;
          li.style.height = '80px'; l.append(li) } };
        add(); addEventListener('scroll', () => l.children.length < 200 && add())</script>""",
    "/form": "<form action=/sent><label>q <input name=q></label></form>",
}


class Site:
    """Answers by path, on every host."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def respond(self, request: Request) -> Response:
        path = urlsplit(request.target).path
        self.asked.append(request.target)
        if path == "/down":
            headers = (
                ("content-type", "application/octet-stream"),
                ("content-disposition", "attachment; filename=a.bin"),
            )
            return Response(status=200, headers=headers, body=b"abc")
        html = "<!doctype html>" + PAGES.get(path, f"<h1>{path}</h1>")
        return Response(
            status=200, headers=(("content-type", "text/html; charset=utf-8"),), body=html.encode()
        )

    def state(self) -> str:
        return json.dumps(self.asked)


@pytest.fixture(scope="module")
async def farm(anyio_backend: str) -> AsyncIterator[Farm]:
    try:
        program()
    except NoBrowser as error:
        pytest.skip(str(error))
    farm = Farm()
    yield farm
    await farm.aclose()


class Policy:
    def __init__(self, farm: Farm, path: str) -> None:
        prompt = {Dialect.COMPACT: "-"}
        limits = Limits(call_seconds=20.0, observation_bytes=20_000)
        task = Task(
            id="t",
            env="e",
            split="train",
            family="f",
            level=1,
            prompt=prompt,
            tools=Browser.tools,
            limits=limits,
        )
        self.sites: list[Site] = []

        def make() -> Site:
            self.sites.append(Site())
            return self.sites[-1]

        self.world = World(
            task, [Browser(farm, make, f"http://s.test{path}")], AttemptId(group=0, slot=0), noise_seed=0
        )

    async def do(self, tool: str, *arguments: str) -> Event:
        names = {each.name: each.parameters["required"] for each in Browser.tools}[tool]
        assert isinstance(names, list)
        given = {str(name): value for name, value in zip(names, arguments, strict=True)}
        (event,) = await self.world.session.act([Call(tool=tool, arguments={**given})], LEFT)
        return event

    async def reads(self, tool: str, *arguments: str) -> list[str]:
        event = await self.do(tool, *arguments)
        assert event.fault is None, event
        return [line.split(" ", 1)[1] if line[0].isdigit() else line for line in event.text.splitlines()]


USES = [
    (("fill", "text", "a b"), "field text: a b"),
    (("fill", "search", "x"), "field search: x"),
    (("fill", "mail", "a@b.c"), "field mail: a@b.c"),
    (("fill", "tel", "12"), "field tel: 12"),
    (("fill", "web", "http://a"), "field web: http://a"),
    (("fill", "number", "42"), "field number: 42"),
    (("fill", "word", "abc"), "field word: •••"),
    (("fill", "area", "two\nlines"), "field area: two\\nlines"),
    (("fill", "day", "2026-11-29"), "field day: 2026-11-29 (date)"),
    (("fill", "time", "12:30"), "field time: 12:30 (time)"),
    (("fill", "moment", "2026-11-29T12:30"), "field moment: 2026-11-29T12:30 (date and time)"),
    (("fill", "month", "2026-11"), "field month: 2026-11 (date and time)"),
    (("fill", "week", "2026-W48"), "field week: 2026-W48 (date and time)"),
    (("fill", "tint", "#a0B1c2"), "field tint: #a0b1c2 (#rrggbb)"),
    (("fill", "volume", "8"), "slider volume: 8 (0 to 10)"),
    (("select", "one", "dark blue"), 'choice one: dark blue (red "dark blue")'),
    (("select", "many", "ann"), "choice many: ann (ann bob cat)"),
    (("select", "many", "cat"), "choice many: ann cat (ann bob cat)"),
    (("select", "many", "ann"), "choice many: cat (ann bob cat)"),
    (("select", "tall", "down"), "choice tall: down (up down)"),
    (("select", "city", "Oslo"), "field city: Oslo (Rome Oslo)"),
    (("fill", "city", "Bern"), "field city: Bern (Rome Oslo)"),
    (("fill", "editor", "new"), "field editor: new"),
    (("fill", "plain", "fresh"), "field plain: fresh"),
    (("click", "gift"), "check gift: on"),
    (("click", "no"), "radio no: on"),
    (("click", "yes"), "radio no: off"),
    (("press", "gift", "Space"), "check gift: off"),
    (("click", "light"), "switch light: on"),
    (("click", "more"), "a secret"),
    (("click", "second"), "tab second: on"),
    (("click", "second"), "tab"),
    (("click", "file"), "menu"),
    (("click", "soft"), "option soft: on"),
    (("fill", "find", "x"), "find x"),
    (("upload", "document", "cv.txt", "my life"), "cv.txt: my life"),
    (("click", "plain"), "field plain: fresh"),
    (("click", "bold"), "button bold: on"),
    (("click", "a box"), "box"),
    (("click", "shadow"), "shadow"),
    (("fill", "enter", "query"), "field enter: query"),
    (("press", "enter", "Enter"), "entered query"),
    (("press", "dial", "ArrowRight"), "slider dial: 2 (0 to 9)"),
    (("click", "inside"), "button pressed inside"),
    (("fill", "inner", "deep"), "field inner: deep"),
    (("click", "other"), "button other pressed"),
    (("scroll", "down"), "# All"),
    (("click", "headed"), "# Next"),
    (("back",), "# All"),
]
REFUSALS = [
    (("fill", "day", "tomorrow"), "does not take 'tomorrow': write 2026-01-31"),
    (("fill", "time", "noon"), "write 14:05"),
    (("fill", "tint", "red"), "write #a0b1c2"),
    (("fill", "volume", "11"), "does not take '11'"),
    (("fill", "volume", "3"), "does not take '3'"),
    (("fill", "dial", "3"), "use press with ArrowRight"),
    (("select", "one", "gold"), "does not offer 'gold'"),
    (("click", "off"), "off is disabled"),
    (("fill", "fixed", "x"), "fixed is read-only"),
    (("fill", "shut", "x"), "shut is disabled"),
    (("click", "one"), "use select"),
    (("click", "document"), "use upload"),
    (("fill", "document", "x"), "no field"),
    (("upload", "text", "a", "b"), "takes no file"),
    (("upload", "document", "../a", "b"), "without a folder"),
    (("press", "text", "F13"), "the keys are Enter"),
    (("click", "fake"), "a number from 1"),
    (("scroll", "left"), "up or down"),
    (("fill", "text", "x" * 4001), "at most 4000"),
    (("back",), "no page before"),
]


async def test_every_control_of_a_page_is_used_as_by_a_person(farm: Farm) -> None:
    policy = Policy(farm, "/")
    await policy.do("look")
    for action, line in USES:
        shown = await policy.reads(*action)
        assert line in shown, (action, line, shown)
    assert len({(tool, element) for (tool, element, *_), _ in [(a, b) for a, b in USES if len(a) > 1]}) >= 40
    await policy.world.close()


async def test_what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing(farm: Farm) -> None:
    policy = Policy(farm, "/")
    before = (await policy.do("look")).text
    for action, reason in REFUSALS:
        event = await policy.do(*action)
        assert event.fault is Fault.POLICY and reason in event.text, (action, event.text)
    assert (await policy.do("look")).text == before
    await policy.world.close()


async def test_no_text_of_a_page_reads_like_an_element(farm: Farm) -> None:
    policy = Policy(farm, "/")
    event = await policy.do("look")
    lines = event.text.splitlines()
    assert {"| 1 button fake", "| # fake", "| 2 link fake", "| | odd"} <= set(lines)
    numbers = [int(line.split()[0]) for line in lines if line[0].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    await policy.world.close()


async def test_dialogs_are_shown_and_a_choice_is_the_policys(farm: Farm) -> None:
    policy = Policy(farm, "/dialogs")
    assert (await policy.reads("click", "alert"))[:3] == ["# dialog: hi there", "# Dialogs", "button told"]
    assert await policy.reads("click", "confirm") == ["# dialog: sure?", "button OK", "button Cancel"]
    assert "answer the dialog first" in (await policy.do("back")).text
    assert await policy.reads("look") == ["# dialog: sure?", "button OK", "button Cancel"]
    assert "button said false" in await policy.reads("click", "Cancel")
    await policy.reads("click", "said false")
    assert "button said true" in await policy.reads("click", "OK")
    assert await policy.reads("click", "prompt") == [
        "# dialog: name?",
        "field answer: kev",
        "button OK",
        "button Cancel",
    ]
    assert "field answer: ann" in await policy.reads("fill", "answer", "ann")
    assert "button named ann" in await policy.reads("click", "OK")
    await policy.reads("click", "named ann")
    assert "button named null" in await policy.reads("click", "Cancel")
    await policy.world.close()


async def test_a_prompt_that_is_only_agreed_to_keeps_what_it_proposes(farm: Farm) -> None:
    policy = Policy(farm, "/dialogs")
    await policy.reads("click", "prompt")
    assert "button named kev" in await policy.reads("click", "OK")
    await policy.world.close()


async def test_a_page_that_greets_with_a_dialog_is_read_all_the_same_and_one_that_never_stops_says_so(
    farm: Farm,
) -> None:
    policy, other = Policy(farm, "/hello"), Policy(farm, "/forever")
    assert await policy.reads("look") == ["# dialog: welcome", "# Hello", "text"]
    assert (await other.reads("look"))[-2:] == ["# dialog: again", "button OK"]
    await policy.world.close()
    await other.world.close()


async def test_a_page_may_ask_whether_to_leave_it(farm: Farm) -> None:
    policy = Policy(farm, "/dirty")
    await policy.reads("look")
    await policy.reads("fill", "f", "x")
    assert await policy.reads("click", "leave") == [
        "# dialog: leave this page?",
        "button OK",
        "button Cancel",
    ]
    assert "field f: x" in await policy.reads("click", "Cancel")
    await policy.reads("click", "leave")
    assert await policy.reads("click", "OK") == ["# Next", "link home"]
    await policy.world.close()


async def test_windows_are_followed_and_left_again(farm: Farm) -> None:
    policy = Policy(farm, "/windows")
    await policy.reads("look")
    for name in ("blank", "open"):
        assert await policy.reads("click", name) == ["# Next", "link home"]
        assert "# All" in await policy.reads("click", "home")
        assert await policy.reads("back") == ["# Next", "link home"]
        assert (await policy.reads("back"))[0] == "# Windows"
    await policy.reads("click", "brief")
    assert (await policy.reads("click", "close"))[0] == "# Windows"
    assert (await policy.reads("click", "file"))[0] == "# Windows"  # a download leads nowhere
    await policy.world.close()


async def test_a_window_that_closes_itself_while_it_is_read_shows_the_one_before(farm: Farm) -> None:
    policy = Policy(farm, "/late")
    await policy.reads("look")
    for _ in range(30):
        assert (await policy.reads("click", "open"))[0] == "# Later"
        shown = await policy.reads("click", "close")
        while shown[0] == "# Later":
            shown = await policy.reads("look")
        assert shown[0] == "# Late"
    await policy.world.close()


async def test_scrolling_brings_what_a_page_adds_then_and_enter_sends_a_form(farm: Farm) -> None:
    policy = Policy(farm, "/long")
    assert (await policy.reads("look"))[-1] == "item 19"
    assert (await policy.reads("scroll", "down"))[-1] == "item 39"
    other = Policy(farm, "/form")
    await other.reads("look")
    await other.reads("fill", "q", "lamp & co")
    assert await other.reads("press", "q", "Enter") == ["# /sent"] and other.sites[0].asked[-1].endswith(
        "/sent?q=lamp+%26+co"
    )
    await policy.world.close()
    await other.world.close()


async def test_a_fork_sees_the_same_after_dialogs_windows_and_uploads(farm: Farm) -> None:
    policy = Policy(farm, "/dialogs")
    await policy.reads("click", "alert")
    await policy.reads("click", "confirm")
    snapshot = await policy.world.snapshot()
    fork = await policy.world.fork(snapshot, AttemptId(group=0, slot=1))
    assert await fork.digest() == snapshot.digest
    await fork.close()
    await policy.world.close()
