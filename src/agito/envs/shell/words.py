"""The words of the shell tasks, and how files, complaints and commands are written in them.

A vocabulary has as many words of each kind as every other, so that one seed draws the same latent task in
each. The terse one has short, pronounceable words, one token each, with a single role each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_FIRST, _VOWELS, _LAST = "bdfklmrv", "aeiou", "bdgklmnprtvx"
_AVOIDED = {
    "bad",
    "bin",
    "dig",
    "del",
    "dik",
    "fag",
    "fap",
    "fuk",
    "kok",
    "kum",
    "let",
    "log",
    "man",
    "mod",
    "red",
    "rev",
    "rub",
    "run",
    "dud",
}

# What the check demands: the file's path or nothing, the key, and its value, which may point to another key.
Demand: TypeAlias = "tuple[str, str, str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The terse vocabulary's way of writing; another one overrides it."""

    names: tuple[str, ...]  # of directories and files
    keys: tuple[str, ...]
    values: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]]  # in training, each of these keys plays its part in this family alone
    prose: Mapping[str, str]  # the natural prompt of a family, with a place for `key`

    def path(self, *names: str) -> str:
        """Of a file: its directory, if it has one, and its name."""
        return "/".join(names)

    def start(self, path: str, key: str) -> str:
        """Of the key's live line in that file, up to the value."""
        return f"{key}="

    def line(self, path: str, key: str, value: str) -> str:
        return f"{self.start(path, key)}{value}"

    def stale(self, line: str) -> str:
        return f"old {line}"

    def pointer(self, key: str) -> str:
        """The value that means: the same as that key's."""
        return f"@{key}"

    def text(self, path: str, lines: Sequence[str]) -> str:
        """Of a whole file."""
        return "".join(f"{line}\n" for line in lines)

    def complaint(self, demand: Demand) -> str:
        path, key, value = demand
        return f"want {path}:{key}={value}" if path else f"want {key}={value}"

    def matcher(self) -> tuple[str, str]:
        """Bash for the check: what is done for each file `$f`, and the branch of a `case` that finds the live
        line `$l` of `$key` and keeps its value as `$w`."""
        return "", '"$key="*) w=${l#*=};'

    def demand(self, complaint: str) -> Demand:
        path, _, rule = complaint.strip().removeprefix("want ").rpartition(":")
        key, _, value = rule.partition("=")
        return path, key, value

    def target(self, value: str) -> str | None:
        """The key that a value points to."""
        return value[1:] if value.startswith("@") else None

    def value(self, line: str, key: str) -> str | None:
        """Of the key, where this is one of its lines, stale ones too."""
        start, equals, value = line.removeprefix("old ").partition("=")
        return value if equals and start == key else None

    def grep(self, flags: str, key: str, *, live: bool) -> str:
        """Prints the key's lines, only live ones or stale ones too."""
        return f"grep -{flags} {'^' if live else ''}{key}= *"

    def sed(self, key: str, files: str, *, live: bool) -> str:
        return f"sed -n /{'^' if live else ''}{key}=/p {files}"

    def replace(self, path: str, key: str, value: str) -> str:
        return f"sed -i s/^{key}=.*/{key}={value}/ {path}"

    def rebuild(self, path: str, key: str, value: str) -> str:
        """The same without sed."""
        return f"grep -v ^{key}= {path} >t; echo {key}={value} >>t; mv t {path}"

    @property
    def mend(self) -> str:
        """Bash that repairs whatever the check reports, unread: the best that is possible without looking."""
        return _MEND


_MEND = r"""while o=$(bash .check); [ "${o%% *}" = want ]; do r=${o##*[ :]}; k=${r%%=*}; v=${r#*=}; case $v in @*) v=$(
for f in * */*; do while IFS== read -r a b; do [ "$a" = "${v#@}" ] && echo "$b"; done <$f; done 2>/dev/null);; esac
for f in * */*; do case $(cat $f 2>/dev/null) in *$k=*)
t=$(while IFS= read -r l; do case $l in $k=*) l=$k=$v;; esac; echo "$l"; done <$f); echo "$t" >$f;; esac; done
done"""  # noqa: E501

_PROSE = {
    "find": (
        "Each line of the files below the working directory is a key, an equals sign and a value, without "
        "spaces. Find the value of "
        "`{key}`. A line that starts with `old` is stale: ignore it. A value `@other` means: the same "
        "value as the key `other`. Tools can "
        "time out or be missing. Submit the whole line that settles it, and nothing else."
    ),
    "repair": (
        "Each line of the files below the working directory is a key, an equals sign and a value, without "
        "spaces; one that starts with "
        "`old` is stale. "
        "`./.check` prints the first rule that does not hold, or `ok` and a word. Edit the files until it "
        "prints `ok`, change nothing "
        "else, and do not leave a key twice. `@other` means: the same value as the key `other`. Tools can "
        "time out or be missing. "
        "Then submit the word."
    ),
}


def _words(count: int) -> tuple[str, ...]:
    """A fixed walk over consonant-vowel-consonant words with few first syllables, so a small BPE learns every
    word whole."""
    every = [a + v + b for a in _FIRST for v in _VOWELS for b in _LAST if a + v + b not in _AVOIDED]
    stride = 97  # coprime to the number of words: neighbours get different roles
    return tuple(every[(i * stride) % len(every)] for i in range(count))


def only(keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {"find": tuple(keys[-12:-6]), "repair": tuple(keys[-6:])}


_ALL = _words(120)
TERSE = Words(
    names=_ALL[:16],
    keys=_ALL[16:52],
    values=_ALL[52:],  # 68: a blind guess is right about once in seventy
    only=only(_ALL[16:52]),
    prose=_PROSE,
)
