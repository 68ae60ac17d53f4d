"""Splits text into words for the indexes here; the same for documents and queries.

Letters, digits and combining marks form words; everything else separates them, also the underscore. Case,
accents and vowel points are ignored. Scripts without spaces between words (Chinese, Japanese, Thai and
others) are split into characters.
"""

from __future__ import annotations

import re
import unicodedata

_ASCII = re.compile(r"[a-z0-9]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_CYRILLIC = range(0x400, 0x530)  # where й and ё are distinct letters
_LONGEST = 255  # significant characters of a word; no index takes words of any length
# Turkish: lowercasing merges dotted and dotless i, so the dotless one is folded too
_DOTLESS = str.maketrans("\u0131", "i")


def words(text: str) -> list[str]:
    """In order, folded; without spaces, and without ASCII other than letters and digits."""
    found = _ASCII.findall(text.lower()) if text.isascii() else _of_any_script(text)
    return [word[:_LONGEST] for word in found]


def _of_any_script(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_DOTLESS)
    parts: list[str] = []
    base = ""
    for each in unicodedata.normalize("NFKD", folded):
        kind = unicodedata.combining(each)
        if not kind:
            base = each
        elif (10 <= kind < 36 or kind >= 200) and ord(base or " ") not in _CYRILLIC:
            continue  # a Hebrew or Arabic point, or an accent
        is_part = each.isalnum() or unicodedata.category(each).startswith("M")
        parts.append(each if is_part else " ")
    whole = unicodedata.normalize("NFC", "".join(parts))
    return _UNSPACED.sub(r" \g<0> ", whole).split()
