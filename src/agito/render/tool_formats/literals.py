"""Calls with literals as Python writes them, `f(a=1, b="x")`: read without `eval`, without `ast`, in bounded
depth.
"""

from __future__ import annotations

import math
import re
import unicodedata

from agito.types import Json

MOST_DEEP = 64
_SPACE = re.compile(r"(?:\s|\\\n)*")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_KEYWORD = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)")
_NUMBER = re.compile(
    r"[+-]?\s*(?:0[xX][0-9a-fA-F]++|0[oO][0-7]++|0[bB][01]++|(?:\d[\d_]*+(?:\.[\d_]*+)?|\.\d[\d_]*+)(?:[eE][+-]?\d++)?)(?![\w.])"
)
_BLOCKS = r"'''((?:[^\\]|\\.)*?)'''|\"\"\"((?:[^\\]|\\.)*?)\"\"\""
_STRING = re.compile(rf"([rRfFuU]?)(?:{_BLOCKS}|'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\")", re.DOTALL)
_BROKEN_STRING = re.compile(
    rf"([rRfFuU]?)(?:{_BLOCKS}|'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")", re.DOTALL
)  # line breaks within
_ESCAPE = re.compile(
    r"\\(?:(\n)|([\\'\"abfnrtv])|([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}]*)\})"
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS: dict[str, Json] = {
    "None": None,
    "True": True,
    "False": False,
    "null": None,
    "true": True,
    "false": False,
}


class Reader:
    """A text, and how far it has been read. Everything raises `ValueError` for what is not there."""

    def __init__(self, text: str, at: int = 0, *, has_breaks: bool = False) -> None:
        self.text, self.at = text, at
        self._strings = _BROKEN_STRING if has_breaks else _STRING

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def takes(self, letters: str) -> bool:
        """Whether the text goes on with these, white space apart; then it is read beyond them."""
        self.space()
        if self.text.startswith(letters, self.at):
            self.at += len(letters)
            return True
        return False

    def expect(self, letters: str) -> None:
        if not self.takes(letters):
            raise ValueError(f"{letters!r} is missing after {self.text[max(self.at - 20, 0) : self.at]!r}")

    def call(self) -> tuple[str, dict[str, Json]]:
        self.space()
        name = _NAME.match(self.text, self.at)
        if name is None:
            raise ValueError("a call is name(argument=value, ...)")
        self.at = name.end()
        self.expect("(")
        arguments: dict[str, Json] = {}
        while not self.takes(")"):
            self.space()
            keyword = _KEYWORD.match(self.text, self.at)
            if keyword is None:
                raise ValueError(f"{name[0]}: every argument has a name, as in {name[0]}(argument=value)")
            if keyword[1] in arguments:
                raise ValueError(f"{name[0]}: the argument {keyword[1]} stands more than once")
            self.at = keyword.end()
            arguments[keyword[1]] = self.value()
            if not self.takes(","):
                self.expect(")")
                break
        return name[0], arguments

    def value(self, depth: int = 0) -> Json:
        self.space()
        if depth > MOST_DEEP:
            raise ValueError(f"lists and objects are nested deeper than {MOST_DEEP}")
        opening = self.text[self.at : self.at + 1]
        if opening in ("[", "("):
            self.at += 1
            return self._items("]" if opening == "[" else ")", depth)
        if opening == "{":
            self.at += 1
            return self._object(depth)
        if (found := self._strings.match(self.text, self.at)) is not None:
            return self._string(found)
        if (found := _NUMBER.match(self.text, self.at)) is not None:
            self.at = found.end()
            return _number(found[0])
        if (found := _NAME.match(self.text, self.at)) is not None and found[0] in _WORDS:
            self.at = found.end()
            return _WORDS[found[0]]
        raise ValueError(f"no value begins with {self.text[self.at : self.at + 20]!r}")

    def _items(self, close: str, depth: int) -> Json:
        """Of a list, or of a tuple, which becomes a list; a value in parentheses is that value."""
        items: list[Json] = []
        is_tuple = close == "]"
        while not self.takes(close):
            items.append(self.value(depth + 1))
            if not self.takes(","):
                self.expect(close)
                return items if is_tuple or len(items) != 1 else items[0]
            is_tuple = True
        return items

    def _object(self, depth: int) -> Json:
        """A dictionary; a set becomes a list."""
        found: dict[str, Json] = {}
        items: list[Json] = []
        while not self.takes("}"):
            key = self.value(depth + 1)
            if self.takes(":"):
                name = key if isinstance(key, str) else _key(key)
                if name in found:
                    raise ValueError(f"the key {name!r} stands more than once in one object")
                found[name] = self.value(depth + 1)
            else:
                items.append(key)
            if found and items:
                raise ValueError("an object has a value for every key")
            if not self.takes(","):
                self.expect("}")
                break
        return items or found

    def _string(self, found: re.Match[str] | None) -> str:
        """Strings that stand beside one another are one, as in Python; not where they may be broken."""
        said: list[str] = []
        while found is not None:
            prefix = found[1].lower()
            body = next(each for each in found.groups()[1:] if each is not None)
            if prefix == "f" and re.search(r"(?<!\{)\{(?!\{)", body):
                raise ValueError("a string with values to be filled in is no literal")
            body = body.replace("{{", "{").replace("}}", "}") if prefix == "f" else body
            said.append(body if prefix == "r" else _ESCAPE.sub(_unescaped, body))
            self.at = found.end()
            self.space()
            found = self._strings.match(self.text, self.at) if self._strings is _STRING else None
        text = "".join(said)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("a string holds half a character (a lone surrogate)")
        return text


def _key(value: Json) -> str:
    """As JSON writes it."""
    if isinstance(value, list | dict):
        raise ValueError("a list is no key")
    return (
        {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
    )


def _number(text: str) -> int | float:
    digits = text.replace(" ", "").replace("_", "")
    try:
        is_whole = not set(digits.lower()) & set(".e") or digits.lower().lstrip("+-").startswith("0x")
        value = int(digits, 0) if is_whole and len(digits) <= 40 else float(digits)
    except ValueError:
        raise ValueError(f"{text[:40]} is no number") from None
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{text[:40]}: a whole number must fit into 64 bits")
    if not math.isfinite(value) or (len(digits) > 40 and digits.lstrip("+-").isdigit()):
        raise ValueError(f"{text[:40]} is no number that fits")
    return value


def _unescaped(found: re.Match[str]) -> str:
    newline, letter, octal, *codes, name = found.groups()
    if newline:
        return ""
    if letter:
        return _LETTERS.get(letter, letter)
    if name is not None:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            raise ValueError(f"there is no character {name[:40]!r}") from None
    code = int(octal, 8) if octal else int(next(each for each in codes if each is not None), 16)
    if code > 0x10FFFF:
        raise ValueError(f"there is no character {code:#x}")
    return chr(code)
