"""Encodings of a text that a person would overlook and a model can learn to read."""

from __future__ import annotations

import base64
import codecs
import re
import string
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache

PLAIN = frozenset({"plainly", "in small letters", "in capitals"})
_DOTS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- "
    "-.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_MORSE = dict(zip(string.ascii_lowercase + string.digits, _DOTS.split(), strict=True))
_LEET = str.maketrans("aeiost", "431057")
_ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)
_SMALL = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@lru_cache(maxsize=1 << 14)
def codes_of(text: str) -> Mapping[str, str]:
    """Encodings by name; none is empty, and no two are equal."""
    found: dict[str, str] = {}
    for name, encode in (_CODES | (_OF_NUMBERS if text.isdigit() and len(text) < 10 else {})).items():
        coded = encode(text)
        if coded and coded not in found.values():
            found[name] = coded
    return found


def _caesar(by: int) -> Callable[[str], str]:
    def encode(text: str) -> str:
        small, large = string.ascii_lowercase, string.ascii_uppercase
        return text.translate(str.maketrans(small + large, small[by:] + small[:by] + large[by:] + large[:by]))

    return encode


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _joined(mark: str, write: Callable[[int], str]) -> Callable[[str], str]:
    return lambda text: mark.join(write(each) for each in _raw(text))


def _atbash(text: str) -> str:
    small, large = string.ascii_lowercase, string.ascii_uppercase
    return text.translate(str.maketrans(small + large, small[::-1] + large[::-1]))


def _places(mark: str) -> Callable[[str], str]:
    return lambda text: (
        mark.join(str(ord(each) - 96) for each in text.lower()) if text.isalpha() and text.isascii() else ""
    )


def _roman(text: str) -> str:
    number, found = int(text), ""
    for value, letters in _ROMAN:
        while number >= value and len(found) < 20:
            found, number = found + letters, number - value
    return found


def _in_words(text: str) -> str:
    number = int(text)
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    return " ".join(_SMALL[int(digit)] for digit in text)


def _base64(text: str) -> str:
    return base64.b64encode(_raw(text)).decode()


_CODES: dict[str, Callable[[str], str]] = {
    "plainly": lambda text: text,
    "in small letters": str.lower,
    "in capitals": str.upper,
    "reversed": lambda text: text[::-1],
    "word by word reversed": lambda text: " ".join(reversed(text.split())),
    "in base64": _base64,
    "in base64 without padding": lambda text: _base64(text).rstrip("="),
    "in base64 for addresses": lambda text: base64.urlsafe_b64encode(_raw(text)).decode(),
    "in base64, twice": lambda text: _base64(_base64(text)),
    "in base64, reversed": lambda text: _base64(text)[::-1],
    "reversed, in base64": lambda text: _base64(text[::-1]),
    "in rot13 and base64": lambda text: _base64(codecs.encode(text, "rot13")),
    "in base32": lambda text: base64.b32encode(_raw(text)).decode().rstrip("="),
    "in base32, small": lambda text: base64.b32encode(_raw(text)).decode().rstrip("=").lower(),
    "in base85": lambda text: base64.b85encode(_raw(text)).decode(),
    "in ascii85": lambda text: base64.a85encode(_raw(text)).decode(),
    "in hex": lambda text: _raw(text).hex(),
    "in hex, large": lambda text: _raw(text).hex().upper(),
    "in hex, reversed": lambda text: _raw(text[::-1]).hex(),
    "in hex with spaces": lambda text: _raw(text).hex(" "),
    "in hex with colons": lambda text: _raw(text).hex(":"),
    "in escaped hex": _joined("", lambda each: f"\\x{each:02x}"),
    "in hex numbers": _joined(" ", lambda each: f"0x{each:02x}"),
    "in escaped Unicode": _joined("", lambda each: f"\\u{each:04x}"),
    "in HTML entities": _joined("", lambda each: f"&#{each};"),
    "in per cent": _joined("", lambda each: f"%{each:02X}"),
    "in ASCII codes": _joined(" ", str),
    "in ASCII codes with commas": _joined(",", str),
    "in ASCII codes with dashes": _joined("-", str),
    "in ASCII codes, listed": _joined(", ", str),
    "in octal": _joined(" ", lambda each: f"{each:o}"),
    "in binary": _joined(" ", lambda each: f"{each:08b}"),
    "in binary without spaces": _joined("", lambda each: f"{each:08b}"),
    "spelt with spaces": " ".join,
    "spelt with dashes": "-".join,
    "spelt with dots": ".".join,
    "spelt with commas": ", ".join,
    "by places in the alphabet": _places(" "),
    "by places in the alphabet, with dashes": _places("-"),
    "by places in the alphabet, with commas": _places(","),
    "in Morse code": lambda text: " ".join(_MORSE.get(each, "") for each in text.lower()).strip(),
    "in Morse code with slashes": lambda text: "/".join(_MORSE.get(each, "") for each in text.lower()).strip(
        "/"
    ),
    "mirrored in the alphabet": _atbash,
    "in leet": lambda text: text.lower().translate(_LEET),
    "with its halves exchanged": lambda text: text[len(text) // 2 :] + text[: len(text) // 2],
    "with its first letter last": lambda text: text[1:] + text[:1],
    "in pairs exchanged": lambda text: "".join(text[at : at + 2][::-1] for at in range(0, len(text), 2)),
    "without vowels": lambda text: "".join(each for each in text if each.lower() not in "aeiou"),
    "doubled": lambda text: "".join(each * 2 for each in text),
    "in full width": lambda text: "".join(
        chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text
    ),
    "with invisible marks": "\u200b".join,
    **{f"shifted by {by}": _caesar(by) for by in range(1, 26)},
}
_OF_NUMBERS: dict[str, Callable[[str], str]] = {
    "in base sixteen": lambda text: f"{int(text):x}",
    "in base sixteen, marked": lambda text: f"0x{int(text):x}",
    "in base two": lambda text: f"{int(text):b}",
    "in base two, marked": lambda text: f"0b{int(text):b}",
    "in base eight": lambda text: f"{int(text):o}",
    "in Roman numerals": _roman,
    "in words": _in_words,
    "padded": lambda text: text.zfill(len(text) + 2),
}


_BLOB = re.compile(r"[A-Za-z0-9+/_=-]{8,}")


@lru_cache(maxsize=1 << 12)
def decoded(text: str) -> str:
    """Decoded base64, base32 and hex words of a text; reversed and compressed ones too."""
    found: list[str] = []
    for blob in dict.fromkeys(_BLOB.findall(text)[:60]):
        for word in (blob, blob[::-1]):
            for decode in _DECODERS:
                with suppress(ValueError, zlib.error):
                    raw = decode(word)
                    raw = zlib.decompress(raw) if raw[:1] == b"x" and raw[1:2] in b"\x01\x5e\x9c\xda" else raw
                    said = raw.decode()
                    if said.isprintable() and len(said) > 2:
                        found.append(said)
    return "\n".join(found)


_DECODERS: tuple[Callable[[str], bytes], ...] = (
    bytes.fromhex,
    lambda word: base64.b64decode(
        word + "=" * (-len(word) % 4), altchars=b"-_" if {"-", "_"} & set(word) else None, validate=True
    ),
    lambda word: base64.b32decode(word.upper() + "=" * (-len(word) % 8)),
)


def views_of(text: str) -> Mapping[str, str]:
    """Other readings of a text: what the first letters of its words or lines, or its capitals, spell."""
    words, lines = text.split(), [line for line in text.splitlines() if line.strip()]
    return {
        "inside a coded text": decoded(text).lower(),
        "the first letters of words": "".join(word[0] for word in words).lower(),
        "the first letters of lines": "".join(line.strip()[0] for line in lines).lower(),
        "the last letters of words": "".join(word[-1] for word in words).lower(),
        "the capitals": "".join(each for each in text if each.isupper()).lower(),
        "what is left without invisible marks": text.replace("\u200b", "")
        .replace("\u200c", "")
        .replace("\u2060", "")
        if not text.isascii()
        else "",
    }
