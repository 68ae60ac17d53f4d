"""The subset of HTML read without a browser; anything unknown is refused, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from agito.errors import AgitoError

_GLOBAL = frozenset(("class", "id", "lang", "dir"))
_PLAIN = (
    "html head body title div section span b strong em i u small cite kbd samp p ul ol li article nav main "
    "aside blockquote code mark h1 h2"
    " h3 h4 h5 h6 table thead tbody tfoot tr th td br hr noscript template"
)
KNOWN: dict[str, frozenset[str]] = {
    **{tag: frozenset(("hidden",)) for tag in _PLAIN.split()},
    "meta": frozenset(("charset", "name", "content")),
    "a": frozenset(("href", "hidden")),
    "form": frozenset(("action", "method", "autocomplete", "hidden", "accept-charset")),
    "label": frozenset(("for", "hidden")),
    "input": frozenset(
        (
            "type",
            "name",
            "value",
            "checked",
            "disabled",
            "readonly",
            "placeholder",
            "aria-label",
            "title",
            "autocomplete",
            "hidden",
            "size",
        )
    ),
    "textarea": frozenset(
        (
            "name",
            "disabled",
            "readonly",
            "placeholder",
            "aria-label",
            "title",
            "autocomplete",
            "hidden",
            "rows",
            "cols",
        )
    ),
    "select": frozenset(("name", "disabled", "aria-label", "title", "autocomplete", "hidden")),
    "optgroup": frozenset(("label",)),
    "option": frozenset(("value", "selected", "disabled")),
    "button": frozenset(("type", "name", "value", "disabled", "aria-label", "hidden")),
}
INPUTS = frozenset(("text", "search", "tel", "password", "hidden", "checkbox", "radio", "submit"))
VOID = frozenset(("br", "hr", "input", "meta"))
_CLOSES = {  # opening tags that implicitly close the tags of the first set, up to one of the second
    "li": ({"li"}, {"ul", "ol"}),
    "option": ({"option"}, {"select"}),
    "optgroup": ({"option", "optgroup"}, {"select"}),
    "tr": ({"td", "th", "tr"}, {"table"}),
    "td": ({"td", "th"}, {"tr"}),
    "th": ({"td", "th"}, {"tr"}),
    "tbody": ({"td", "th", "tr", "thead", "tbody"}, {"table"}),
    "tfoot": ({"td", "th", "tr", "tbody"}, {"table"}),
}
_ENDS_P = frozenset(
    "article aside blockquote div form h1 h2 h3 h4 h5 h6 hr main nav ol p section table ul".split()  # noqa: SIM905
)
_UNCLOSED = frozenset(
    ("li", "option", "optgroup", "tr", "td", "th", "thead", "tbody", "tfoot", "p", "html", "body", "head")
)
_ALONE = frozenset(("a", "button", "form", "label", "select"))  # never nested in their own kind
_IN_TABLES = {
    "table": {"thead", "tbody", "tfoot", "tr"},
    "thead": {"tr"},
    "tbody": {"tr"},
    "tfoot": {"tr"},
    "tr": {"td", "th"},
}


class Unsupported(AgitoError):
    """A page that needs Chromium."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the text browser does not read it as Chromium does; use Farm")


@dataclass(slots=True, eq=False)
class Node:
    """An element, or text if the tag is empty."""

    tag: str
    given: dict[str, str] = field(default_factory=dict[str, str])
    text: str = ""
    children: list[Node] = field(default_factory=list["Node"])


def parse(html: str) -> Node:
    """The body. Raises `Unsupported`."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    unclosed = [node.tag for node in parser.open[1:] if node.tag not in _UNCLOSED]
    if unclosed:
        raise Unsupported(f"<{unclosed[-1]}> without its end")
    return parser.open[0]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("body")]  # html and head are implicit: their content belongs to the page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in KNOWN:
            raise Unsupported(f"<{tag}>")
        given = {name: value or "" for name, value in attrs}
        if given.get("style", "").replace(" ", "").rstrip(";").lower() == "display:none":
            given["hidden"] = given.pop("style")
        unknown = [
            name for name in given if name not in KNOWN[tag] | _GLOBAL and not name.startswith("data-")
        ]
        if unknown:
            raise Unsupported(f"<{tag} {unknown[0]}>")
        _check(tag, given)
        self._imply(tag)
        self._place(tag)
        node = Node(tag, given)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            raise Unsupported(f"</{tag}>")
        while len(self.open) > 1:
            node = self.open.pop()
            if node.tag == tag:
                return
            if node.tag not in _UNCLOSED:
                break
        raise Unsupported(f"</{tag}> without its beginning, or across another element")

    def handle_data(self, data: str) -> None:
        inside = self.open[-1]
        if inside.tag in _IN_TABLES and data.strip():
            raise Unsupported("text between the cells of a table")
        if inside.tag == "textarea" and not inside.children:
            data = data.removeprefix("\n")
        inside.children.append(Node("", text=data))

    def handle_pi(self, data: str) -> None:
        raise Unsupported("<?")

    def unknown_decl(self, data: str) -> None:
        raise Unsupported("<![")

    def _imply(self, tag: str) -> None:
        """Closes what this tag closes implicitly."""
        ends, until = _CLOSES.get(tag, (set[str](), set[str]()))
        if tag in _ENDS_P:
            ends, until = {"p"}, {"body", "td", "th", "li", "button", "article", "div", "section"}
        names = [node.tag for node in self.open]
        for at in range(len(names) - 1, 0, -1):
            if names[at] in until:
                return
            if names[at] in ends:
                if any(name not in _UNCLOSED for name in names[at:]):
                    raise Unsupported(f"<{tag}> inside of an open <{names[-1]}>")
                del self.open[at:]
                if tag == "p" or tag not in _CLOSES:
                    return

    def _place(self, tag: str) -> None:
        inside = self.open[-1].tag
        if inside in _IN_TABLES and tag not in _IN_TABLES[inside]:
            raise Unsupported(f"<{tag}> in <{inside}>")
        if tag in ("td", "th", "tr", "thead", "tbody", "tfoot") and inside not in _IN_TABLES:
            raise Unsupported(f"<{tag}> outside of a table")
        if inside in ("select", "optgroup") and tag not in ("option", "optgroup"):
            raise Unsupported(f"<{tag}> in <{inside}>")
        if inside in ("option", "textarea", "title") or (
            tag in ("option", "optgroup") and inside not in ("select", "optgroup")
        ):
            raise Unsupported(f"<{tag}> in <{inside}>")
        above = {node.tag for node in self.open}
        if (tag in _ALONE and tag in above) or (
            tag in ("input", "select", "textarea", "button", "a", "label") and above & {"a", "button"}
        ):
            raise Unsupported(f"<{tag}> in <{inside}>")


def _check(tag: str, given: dict[str, str]) -> None:
    """Refuses values that change what a control is or does."""
    kind = given.get("type", "text" if tag == "input" else "submit").lower()
    wrong = (
        (tag == "input" and kind not in INPUTS)
        or (tag == "button" and kind not in ("submit", "button"))
        or (tag == "form" and given.get("method", "get").lower() not in ("get", "post"))
        or (
            tag == "a"
            and given.get("href", "/")
            .strip()
            .lower()
            .startswith(("#", "javascript:", "mailto:", "data:", "tel:"))
        )
        or (tag == "meta" and not ({"charset", "name"} & given.keys()))
    )
    if wrong:
        raise Unsupported(f"<{tag} {' '.join(f'{name}={value}' for name, value in given.items())[:60]}>")
