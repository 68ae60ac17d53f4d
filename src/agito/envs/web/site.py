"""The site of one task: state to pages, requests to state. It runs on the trusted side; a browser only sees
HTML."""

from __future__ import annotations

import json
from html import escape
from urllib.parse import parse_qs, quote, unquote, urlsplit

from agito.envs.web.instance import ASK, DONE, FIELDS, HOME, NEWS, NEXT, NOTE, SENDS, SIZES, Instance, Item
from agito.worlds.http1 import Request, Response

START = "http://web.test/"


class WebSite:
    """Implements `Served`. Every form redirects to another page, so going back never sends it twice."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records: list[str] = []
        self._drafts: dict[str, list[str]] = {}  # of forms with two pages, by path

    def state(self) -> str:
        return json.dumps({"records": self._records, "drafts": self._drafts}, sort_keys=True)

    async def respond(self, request: Request) -> Response:
        url = urlsplit(request.target)
        parts = [unquote(part) for part in url.path.split("/") if part]
        if request.method == "POST":
            given = {
                name: " ".join(values[0].split())
                for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()
            }
            return _lead(self._take(parts, given))
        body = self._page(parts, parse_qs(url.query).get("wrong", [""])[0])
        return _html(body) if body else _html("<h1>missing</h1>", status=404)

    def _page(self, parts: list[str], problem: str) -> str:
        match parts:
            case []:
                return self._home()
            case ["done"]:
                return f"<h1>{DONE}</h1><a href='/'>{HOME}</a>"
            case ["news"] if self._instance.coupon:
                return f"<h1>{self._instance.labels[NEWS]}</h1><p>coupon{self._instance.coupon}</p>"
            case ["in", section]:
                return self._section(section)
            case ["in", section, name, *rest]:
                item = self._item(section, name)
                return self._item_page(item, problem, is_second=rest == ["2"]) if item is not None else ""
            case _:
                return ""

    def _home(self) -> str:
        sections = self._instance.sections
        if sections[0][0] == HOME:
            return f"<h1>{HOME}</h1>{_links(HOME, sections[0][1])}"
        news = f"<a href='/news'>{self._instance.labels[NEWS]}</a>" if self._instance.coupon else ""
        links = " ".join(f"<a href='/in/{quote(name)}'>{escape(name)}</a>" for name, _ in sections)
        return f"<h1>{HOME}</h1>{links} {news}"

    def _section(self, section: str) -> str:
        items = dict(self._instance.sections).get(section)
        return (
            f"<h1>{escape(section)}</h1>{_links(section, items)}"
            if items is not None and section != HOME
            else ""
        )

    def _item(self, section: str, name: str) -> Item | None:
        return next(
            (item for item in dict(self._instance.sections).get(section, ()) if item.name == name), None
        )

    def _item_page(self, item: Item, problem: str, *, is_second: bool) -> str:
        head = f"<h1>{escape(item.name)}</h1>" + (f"<p>by {escape(item.owner)}</p>" if item.owner else "")
        if item.is_sold_out:
            return f"{head}<p>sold out</p>"
        head += f"<p>wrong {escape(problem)}</p>" if problem else ""
        head += "".join(f"<p>{escape(author)}{number}</p>" for author, number in item.posts)
        if self._instance.code and not is_second:
            head += f"<p>code{self._instance.code}</p>"
        shown = self._shown(is_second)
        return head + _form(
            "".join(
                _control(word, self._instance.labels[word]) for word in self._instance.order if word in shown
            )
        )

    def _shown(self, is_second: bool) -> tuple[str, ...]:
        """The fields and buttons of one page, by word."""
        instance = self._instance
        fields = tuple(word for word in FIELDS[instance.family] if word in instance.labels)
        if "three" not in fields:
            return (*fields, SENDS[instance.family], NOTE, ASK)
        return (*fields[2:], SENDS["form"], NOTE, ASK) if is_second else (*fields[:2], NEXT, NOTE, ASK)

    def _take(self, parts: list[str], given: dict[str, str]) -> str:
        """The page that a sent form leads to."""
        if len(parts) < 3 or parts[0] != "in":
            return "/"
        item = self._item(parts[1], parts[2])
        here, is_second = "/" + "/".join(quote(part) for part in parts), parts[3:] == ["2"]
        if item is None or item.is_sold_out:
            return "/"
        shown = self._shown(is_second)
        if given.get("act") == ASK:
            return self._keep(f"{ASK} {item.name}")
        if problem := next((word for word in shown if _is_wrong(word, given, self._instance.coupon)), ""):
            return f"{here}?wrong={quote(self._instance.labels[problem])}"
        values = [_value(word, given) for word in FIELDS[self._instance.family] if word in shown]
        note = [f"{NOTE} {given[NOTE]}"] if given.get(NOTE) else []
        if NEXT in shown:
            self._drafts[here] = [*values, *note]
            return f"{here}/2"
        verb = {"shop": "buy", "forum": "reply", "form": "send"}[self._instance.family]
        earlier = self._drafts.get(here.removesuffix("/2"), []) if is_second else []
        return self._keep(" ".join(part for part in (verb, item.name, *earlier, *values, *note) if part))

    def _keep(self, record: str) -> str:
        self._records.append(record)
        return "/done"


def _is_wrong(word: str, given: dict[str, str], coupon: str) -> bool:
    value = given.get(word, "")
    if word == "count":
        return not (value.isascii() and value.isdigit() and 1 <= int(value[:4]) <= 99)
    if word == "coupon":
        return value not in ("", coupon)
    return word in ("text", "one", "two", "three") and not value


def _value(word: str, given: dict[str, str]) -> str:
    return ("on" if given.get(word) else "off") if word == "tick" else given.get(word, "")


def _html(body: str, *, status: int = 200) -> Response:
    page = (
        "<!doctype html><html lang=en><head><meta "
        f"charset=utf-8><title>site</title></head><body>{body}</body></html>"
    )
    return Response(
        status=status,
        headers=(("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store")),
        body=page.encode(),
    )


def _lead(path: str) -> Response:
    return Response(status=303, headers=(("location", path), ("cache-control", "no-store")))


def _links(section: str, items: tuple[Item, ...]) -> str:
    return "".join(
        f'<a href="/in/{quote(section)}/{quote(item.name)}">{escape(item.name)}</a> ' for item in items
    )


def _form(controls: str) -> str:
    return f'<form method="post" autocomplete="off">{controls}</form>'


def _control(word: str, label: str) -> str:
    match word:
        case "size":
            listed = "".join(f"<option>{each}</option>" for each in SIZES)
            return f'<p><label>{label} <select name="{word}">{listed}</select></label></p>'
        case "tick":
            return f'<p><label>{label} <input type="checkbox" name="{word}"></label></p>'
        case "pay" | "post" | "go" | "next" | "ask":
            return f'<p><button name="act" value="{word}">{label}</button></p>'
        case _:
            return f'<p><label>{label} <input name="{word}"></label></p>'
