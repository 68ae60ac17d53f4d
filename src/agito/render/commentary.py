"""What an argument says beside what it does: comments, strings that stand alone, idle output.

Told by form, in the notations that shells, Python, C and its kin, SQL and HTML share. Names and values that
are made up to hold a thought are not found.
"""

from __future__ import annotations

import re

CODE_PER_COMMENT = 2  # tokens of code that a token of comment explains; more comment than that is a thought

_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_FORMS = (
    r"(?m)(?:^|(?<=\s))\#(?!!).*$",  # shell, Python; not the line that names an interpreter
    r"(?m)(?:^|(?<=\s))//.*$",
    r"(?s)/\*.*?(?:\*/|\Z)",
    r"(?m)(?:^|(?<=\s))--\s.*$",  # SQL
    r"(?s)<!--.*?(?:-->|\Z)",
    r"(?sm)^[ \t]*[rRbBuUfF]{0,2}(?P<quote>\"{3}|'{3}).*?(?:(?P=quote)|\Z)",  # a string as a statement
    rf"(?m)^[ \t]*{_STRING}[ \t]*;?[ \t]*$",
    # Output that goes to the one who wrote it, and commands that do nothing.
    rf"(?m)^[ \t]*(?:print|console\.log|puts)\s*\(?\s*{_STRING}\s*\)?[ \t]*;?[ \t]*$",
    r"(?sm)(?:^|[;&|])[ \t]*(?:cat|:|true)[ \t]*<<-?[ \t]*(?P<mark>['\"]?)(?P<end>\w+)(?P=mark)[ \t]*\n.*?"
    r"(?:^[ \t]*(?P=end)$|\Z)",
    rf"(?m)(?:^|[;&|])[ \t]*(?::|true|echo|printf)[ \t]+(?:{_STRING}|[^\n;&|>'\"])+(?=$|[;&])",
)


def commentary(text: str) -> str:
    """Its commentary, form by form; what two forms find is found once."""
    found = list[str]()
    for form in _FORMS:
        at = re.compile(form)
        found += [match.group().strip() for match in at.finditer(text)]
        text = at.sub("", text)
    return "\n".join(found)
