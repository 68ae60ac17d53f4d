"""The site of one task: pages out of its state, requests into it. It lives on the trusted side; a browser only ever sees HTML."""

from __future__ import annotations

import json
from html import escape
from urllib.parse import parse_qs, quote, unquote, urlsplit

from agito.envs.web.instance import COLORS, DONE, HOME, NEWS, Instance, Item
from agito.world.http1 import Request, Response

START = "http://web.test/"


class WebSite:
    """Implements `Served`. Every form answers by leading to another page, so that going back never sends it twice."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records: list[str] = []
        self._drafts: dict[str, list[str]] = {}  # of forms with two pages, by their path

    def state(self) -> str:
        return json.dumps({"records": self._records, "drafts": self._drafts}, sort_keys=True)

    async def respond(self, request: Request) -> Response:
        url = urlsplit(request.target)
        parts = [unquote(part) for part in url.path.split("/") if part]
        if request.method == "POST":
            given = {name: " ".join(values[0].split()) for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
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
                return f"<h1>{NEWS}</h1><p>coupon {self._instance.coupon}</p>"
            case ["in", section]:
                return self._section(section)
            case ["in", section, name, *rest]:
                item = self._item(section, name)
                return self._item_page(item, parts, problem, is_second=rest == ["2"]) if item is not None else ""
            case _:
                return ""

    def _home(self) -> str:
        sections = self._instance.sections
        if sections[0][0] == HOME:
            return f"<h1>{HOME}</h1>{_links(HOME, sections[0][1])}"
        news = f"<a href='/news'>{NEWS}</a>" if self._instance.coupon else ""
        links = " ".join(f"<a href='/in/{quote(name)}'>{escape(name)}</a>" for name, _ in sections)
        return f"<h1>{HOME}</h1>{links} {news}"

    def _section(self, section: str) -> str:
        items = dict(self._instance.sections).get(section)
        return f"<h1>{escape(section)}</h1>{_links(section, items)}" if items is not None and section != HOME else ""

    def _item(self, section: str, name: str) -> Item | None:
        return next((item for item in dict(self._instance.sections).get(section, ()) if item.name == name), None)

    def _item_page(self, item: Item, parts: list[str], problem: str, *, is_second: bool) -> str:
        family, level = self._instance.family, self._instance.level
        head = f"<h1>{escape(item.name)}</h1>" + (f"<p>wrong: {escape(problem)}</p>" if problem else "")
        if family == "shop":
            if item.is_sold_out:
                return f"{head}<p>sold out</p>"
            choice = _choice("color", COLORS) if level >= 3 else ""
            return head + _form(_field("count") + choice + (_field("coupon") if level >= 5 else ""), "buy")
        if family == "forum":
            posts = "".join(f"<p>{escape(author)} {escape(word)}</p>" for author, word in item.posts)
            return head + posts + _form(_field("text"), "reply")
        if level < 4:
            return head + _form(_field("one") + _field("two") + (_check("tick") if level >= 3 else ""), "send")
        if not is_second:
            code = f"<p>code {self._instance.code}</p>" if self._instance.code else ""
            return head + code + _form(_field("one") + _field("two"), "next")
        return head + _form(_field("three") + _check("tick"), "send")

    def _take(self, parts: list[str], given: dict[str, str]) -> str:
        """Where a sent form leads."""
        if len(parts) < 3 or parts[0] != "in":
            return "/"
        item = self._item(parts[1], parts[2])
        here = "/" + "/".join(quote(part) for part in parts)
        if item is None or item.is_sold_out:
            return "/"
        record, problem = self._record(item, here, parts[3:] == ["2"], given)
        if problem:
            return f"{here}?wrong={quote(problem)}"
        if record is None:
            return f"{here}/2"
        self._records.append(record)
        return "/done"

    def _record(self, item: Item, here: str, is_second: bool, given: dict[str, str]) -> tuple[str | None, str]:
        """What is put on record (None: there is a second page), and which field is wrong."""
        family, level = self._instance.family, self._instance.level
        tick = ["on" if given.get("tick") else "off"] if level >= 3 else []
        if family == "shop":
            count, color = given.get("count", ""), given.get("color", "")
            if not (count.isascii() and count.isdigit() and 1 <= int(count[:4]) <= 99):
                return None, "count"
            if level >= 5 and given.get("coupon", "") not in ("", self._instance.coupon):
                return None, "coupon"
            return " ".join(part for part in ("buy", item.name, count, color, given.get("coupon", "") if level >= 5 else "") if part), ""
        names = {"forum": ["text"], "form": ["one", "two"]}[family] if not is_second else ["three"]
        for name in names:
            if not given.get(name):
                return None, name
        values = [given[name] for name in names]
        if family == "forum":
            return f"reply {item.name} {values[0]}", ""
        if level < 4:
            return " ".join(("send", item.name, *values, *tick)), ""
        if not is_second:
            self._drafts[here] = values
            return None, ""
        return " ".join(("send", item.name, *self._drafts.get(here.removesuffix("/2"), []), *values, *tick)), ""


def _html(body: str, *, status: int = 200) -> Response:
    page = f"<!doctype html><html lang=en><head><meta charset=utf-8><title>site</title></head><body>{body}</body></html>"
    return Response(
        status=status, headers=(("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store")), body=page.encode()
    )


def _lead(path: str) -> Response:
    return Response(status=303, headers=(("location", path), ("cache-control", "no-store")))


def _links(section: str, items: tuple[Item, ...]) -> str:
    return "".join(f'<a href="/in/{quote(section)}/{quote(item.name)}">{escape(item.name)}</a> ' for item in items)


def _form(fields: str, button: str) -> str:
    return f'<form method="post" autocomplete="off">{fields}<button>{button}</button></form>'


def _field(name: str) -> str:
    return f'<p><label>{name} <input name="{name}"></label></p>'


def _choice(name: str, options: tuple[str, ...]) -> str:
    listed = "".join(f"<option>{each}</option>" for each in options)
    return f'<p><label>{name} <select name="{name}">{listed}</select></label></p>'


def _check(name: str) -> str:
    return f'<p><label>{name} <input type="checkbox" name="{name}"></label></p>'
