"""The text browser against Chromium: the same lines, the same requests, or a refusal."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from agito.worlds.browser import Farm, NoBrowser, Tabs, TextTabs, Unsupported, Unusable, View, program
from agito.worlds.http1 import Request, Response

pytestmark = pytest.mark.anyio
FORM = "<form action=/go method=post autocomplete=off>{}<button>go</button></form>"
PAGES = [
    FORM.format("<label>c <select name=c><option value=r>red<option value=b>blue</select></label>"),
    FORM.format(
        "<label>c <select name=c><option>red<option selected>dark blue<option disabled>gold</select></label>"
    ),
    FORM.format("<label>c <select name=c><option value=''><option>blue</select></label>"),
    FORM.format(
        "<label>c <select name=c><optgroup label=g><option>red</optgroup><option>blue</select></label>"
    ),
    FORM.format(
        "<select name=c aria-label=c><option disabled selected>pick<option>a</select><select name=d "
        "disabled><option>x</select>"
    ),
    FORM.format("<input type=hidden name=token value=secret><div hidden><input name=h value=1></div>"),
    FORM.format(
        "<label><input type=checkbox name=g checked value=yes> gift</label><label><input type=checkbox "
        "name=h>more</label>"
    ),
    FORM.format(
        "<label><input type=radio name=r value=1> one</label><label><input type=radio name=r value=2 "
        "checked disabled> two</label>"
    ),
    FORM.format(
        "<label>t <textarea name=t>\nold\n&lt;lines</textarea></label><textarea name=u aria-label=u "
        "readonly> </textarea>"
    ),
    "<form action=/go method=post><input type=submit name=s value=Buy></form>",
    "<form action=/go method=post><button name=a value=1>one</button><button name=a "
    "value=2>two</button></form>",
    "<form action=/go method=post><button type=button>noop</button><button>go</button></form>",
    FORM.format(
        "<label for=x>mail</label><input id=x name=x><label for=y>a <b>b</b>c</label><input id=y name=y "
        "type=tel>"
    ),
    FORM.format(
        "<input name=x placeholder=mail><input name=y title=tip><input name=z aria-label=said "
        "placeholder=not>"
    ),
    FORM.format(
        "<label>p <input type=password name=p value=abc></label><label>q <input type=search name=q value=' "
        "b '></label>"
    ),
    FORM.format(
        "<label>p <input name=p value=abc disabled></label><label>q <input name=q value='a&amp;b=c é' "
        "readonly></label>"
    ),
    "<form action='/go?keep=1#x'><label>q <input name=q value=v></label><button>go</button></form>",
    "<form><label>q <input name=q value=v></label></form>",
    "<h1>a <b>b</b>c</h1><h2>sub</h2><p>text</p><h6>six</h6><h3></h3>",
    "<h1><a href=/x>link</a></h1><h2>a <a href=/y>b</a> c</h2><a href=/z><b>in</b> bold</a>",
    "<p>a &amp; b&nbsp;c</p><p>a<!-- no -->b</p><p>a<br>b</p><p>x&shy;y &#8203;z \u202egnp</p><hr>after",
    "<p><a>no link</a> <a href=/x>link</a> tail</p><a href='http://other.test/q'>far</a><a href=''>here</a>",
    "<noscript>js is off</noscript><p>x</p><template><p>t</p></template>",
    "<div hidden>secret</div><p style='display: none'>gone</p><p>x</p><span hidden>y</span>",
    "<table><tr><td>a</td><td>b</td></tr></table><table><thead><tr><th>h<th>i<tbody><tr><td>1<td><a "
    "href=/x>2</a></table>tail",
    "<ul><li>one<li>two <a href=/x>x</a> tail</ul><ol><li>a<ol><li>b</ol><li>c</ol>",
    "<div>a</div><div>b</div><section>c</section><article>d</article><nav>e</nav><main>f</main><aside>g</aside>h",
    "<p>a <em>b</em> <strong>c</strong> <i>d</i> <code>e</code> <mark>f</mark> "
    "<small>g</small></p><blockquote>q</blockquote>",
    "<p>1 button fake</p><p># fake</p><p>| odd</p><p>12 choice c: a</p><div>3 LINK x</div><p>4 "
    "buttons</p><p>５ link x</p>",
    "<button aria-label=said>shown</button><button></button><button>a<br>b</button><button "
    "disabled>off</button>",
    "x<p>one<p>two<div>three</div>y<ul><li><p>in</ul>z",
    "<label>a <input name=a> b</label><label> <input placeholder=p></label><label></label><input>",
    "",
    "<html><head><title>t</title><meta charset=utf-8></head><body class=c id=i data-x=1 "
    "lang=en><p>x</p></body></html>",
]
REFUSED = [
    "<script>1</script>",
    "<style>p {}</style>",
    "<p style='color: red'>x</p>",
    "<p onclick='1'>x</p>",
    "<div role=button>x</div>",
    "<div tabindex=0>x</div>",
    "<iframe></iframe>",
    "<img alt=x>",
    "<details><summary>x</summary></details>",
    "<fieldset></fieldset>",
    "<input type=date>",
    "<input type=file>",
    "<input type=number>",
    "<input type=email>",
    "<input required>",
    "<input pattern=x>",
    "<input list=l>",
    "<select multiple></select>",
    "<select size=2></select>",
    "<div contenteditable>x</div>",
    "<a href=/x target=_blank>x</a>",
    "<a href='#x'>x</a>",
    "<a href='javascript:1'>x</a>",
    "<base href=/x>",
    "<meta http-equiv=refresh content=1>",
    "<form method=dialog></form>",
    "<form enctype=text/plain></form>",
    "<input form=f>",
    "<button type=reset>x</button>",
    "<button formaction=/x>x</button>",
    "<svg></svg>",
    "<x-y></x-y>",
    "<p aria-label=x>y</p>",
    "<p>a</b></p>",
    "<div><p></div></p>",
    "<a href=/x><button>y</button></a>",
    "<form><form></form></form>",
    "<table>x</table>",
    "<td>x</td>",
    "<select><b>x</b></select>",
    "<select><option>a<option>a</select>",
    "<label><input><input></label>",
    "<b>unclosed",
    "<textarea><b>x</b></textarea>",
    "<![CDATA[x]]>",
    "<?php ?>",
    "<input title=a placeholder=b>",
    "<dl><dt>x</dl>",
    "<q>x</q>",
    "<pre>x</pre>",
    "<header>x</header>",
]


class Site:
    def __init__(self, html: str, **headers: str) -> None:
        self.html, self.headers, self.asked = html, headers, list[tuple[str, str, str, str]]()

    async def respond(self, request: Request) -> Response:
        if not request.target.endswith("/favicon.ico"):
            self.asked.append(
                (request.method, request.target, request.body.decode(), request.header("cookie"))
            )
        html = self.html if request.target == "http://s.test/" else "<h1>there</h1><a href=/>home</a>"
        headers = (
            ("content-type", "text/html; charset=utf-8"),
            *((name.replace("_", "-"), value) for name, value in self.headers.items()),
        )
        return Response(status=200, headers=headers, body=f"<!doctype html>{html}".encode())


@pytest.fixture(scope="module")
async def farm(anyio_backend: str) -> AsyncIterator[Farm]:
    try:
        program()
    except NoBrowser as error:
        pytest.skip(str(error))
    farm = Farm()
    yield farm
    await farm.aclose()


async def used(
    tabs: Tabs, html: str, uses: random.Random, **headers: str
) -> tuple[list[str], list[tuple[str, str, str, str]]]:
    """Every line of every view during random filling, choosing and clicking, and the site's requests."""
    site = Site(html, **headers)
    page = await tabs.page(site.respond)
    seen: list[str] = []

    def see(view: View) -> View:
        seen.append(view.text)
        return view

    view = see(await page.goto("http://s.test/"))
    for _ in range(8):
        if not view.elements:
            break
        element = uses.choice(view.elements)
        try:
            if element.role in ("textbox", "searchbox"):
                view = see(await page.fill(element, uses.choice(["", "a & b", "é", "1 button x"])))
            elif element.role == "combobox":
                view = see(await page.select(element, uses.choice([*element.options, "none of them"])))
            else:
                view = see(await page.click(element))
        except Unusable as problem:
            seen.append(str(problem))
    if (buttons := [each for each in view.elements if each.role == "button" and not each.problem]) != []:
        see(await page.click(buttons[-1]))
    try:
        see(await page.back())
    except (Unusable, Unsupported) as problem:
        seen.append(type(problem).__name__)
    await page.close()
    return seen, site.asked


@pytest.mark.parametrize("html", PAGES, ids=[str(number) for number in range(len(PAGES))])
async def test_both_browsers_show_and_send_the_same(farm: Farm, html: str) -> None:
    real, text = [
        await used(tabs, html, random.Random(len(html)), cache_control="no-store")
        for tabs in (farm, TextTabs())
    ]
    if text[0][-1] == "Unsupported":  # going back to a filled form
        text, real = (text[0][:-1], text[1]), (real[0][:-1], real[1][: len(text[1])])
    assert real == text


CONTROLS = ["<input>", "<input type=checkbox checked>", "<textarea>q</textarea>", ""]


def page_of(rng: random.Random, depth: int = 0) -> str:
    """A random page made of what the text browser knows."""
    words = ["a", "b c", "&amp;", "1 link x", "#", "é", "\n", " "]
    nests = {"p", "div", "section", "ul", "table"}
    kinds = [
        "p",
        "div",
        "b",
        "em",
        "strong",
        "span",
        "section",
        "ul",
        "h2",
        "a",
        "table",
        "label",
        "control",
        "br",
        "code",
        "hidden",
    ]
    parts: list[str] = []
    for _ in range(rng.randint(1, 4)):
        kind, number = rng.choice(kinds), rng.randrange(1000)
        inner = page_of(rng, depth + 1) if depth < 2 and kind in nests else rng.choice(words)
        parts.append(rng.choice(words))
        parts.append(
            {
                "ul": f"<ul><li>{inner}<li>{rng.choice(words)}</ul>",
                "a": f"<a href=/{number}>{inner}</a>",
                "br": "<br>",
                "table": f"<table><tr><td>{inner}<td>{rng.choice(words)}</table>",
                "hidden": f"<div hidden>{inner}</div>",
                "label": f"<label>{inner}{rng.choice(CONTROLS)}</label>",
                "control": rng.choice(
                    [
                        "<input value=v>",
                        "<button>go</button>",
                        "<select><option>a<option>b</select>",
                        "<input type=radio>",
                    ]
                ),
            }.get(kind, f"<{kind}>{inner}</{kind}>")
        )
    return "".join(parts)


async def test_pages_put_together_at_random_read_the_same(farm: Farm) -> None:
    num_read = 0
    for seed in range(40):
        html = page_of(random.Random(seed))
        try:
            page = await TextTabs().page(Site(html).respond)
            text = (await page.goto("http://s.test/")).text
        except Unsupported:
            continue
        real = await farm.page(Site(html).respond)
        assert (await real.goto("http://s.test/")).text == text, html
        await real.close()
        num_read += 1
    assert num_read >= 24


@pytest.mark.parametrize("html", REFUSED)
async def test_what_only_chromium_reads_is_refused(html: str) -> None:
    page = await TextTabs().page(Site(html).respond)
    with pytest.raises(Unsupported, match="use Farm"):
        await page.goto("http://s.test/")


async def test_cookies_and_the_cache_are_as_in_chromium(farm: Farm) -> None:
    for headers in ({"set_cookie": "a=1; Path=/; HttpOnly"}, {"cache_control": "no-store"}, {}):
        real, text = [
            await used(tabs, "<a href=/x>x</a>", random.Random(0), **headers) for tabs in (farm, TextTabs())
        ]
        assert real == text


@pytest.mark.parametrize(
    "headers",
    [
        {"set_cookie": "a=1; Max-Age=3"},
        {"set_cookie": "a"},
        {"content_disposition": "attachment"},
        {"refresh": "1"},
    ],
)
async def test_answers_that_only_chromium_understands_are_refused(headers: dict[str, str]) -> None:
    page = await TextTabs().page(Site("<p>x</p>", **headers).respond)
    with pytest.raises(Unsupported):
        await page.goto("http://s.test/")


async def test_an_element_of_a_page_before_is_gone(farm: Farm) -> None:
    for tabs in (farm, TextTabs()):
        page = await tabs.page(Site("<a href=/x>x</a><p>y</p>").respond)
        element = (await page.goto("http://s.test/")).elements[0]
        await page.click(element)
        with pytest.raises(Unusable):
            await page.click(element)
        await page.close()
