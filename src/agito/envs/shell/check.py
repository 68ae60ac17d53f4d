"""The `./.check` script of the repair tasks: pure bash, one complaint at a time, in the words of
the task's vocabulary.

Reading the script instead of running it reveals nothing. Each rule is encrypted with the values that the
previous rules demand, and the script stores only a salted hash of each value. So a complaint becomes readable
once the rules before it hold, and the final word once all do. The hash is small: values cannot be read off,
but they can be tried.
"""

from __future__ import annotations

import re

from agito.envs.shell.instance import Instance

_MULTIPLIER, _PRIME, _MARK = 69_069, (1 << 31) - 1, 1_000_003
_SCRIPT = r"""#!/bin/bash
k=SALT
mix() { for ((i=0;i<${#1};i++)); do printf -v n %d "'${1:i:1}"; k=$(((k*69069+n)%2147483647)); done; }
unseal() { s=$k; o=; for n in $1; do s=$(((s*69069+1)%2147483647))
printf -v c '\\x%x' $((n^(s>>16&127))); printf -v c %b $c; o+=$c; done; }
for r in SEALED; do
unseal "$r"; key=${o%% *}; o=${o#* }; m=0; w=
case $key in ok) echo "ok $o"; exit 0;; esac
for f in * */*; do FORMwhile IFS= read -r l; do case $l in MATCH m=$((m+1));; esac; done <"$f"; done 2>/dev/null
[ $m = 1 ] || w=
mix "$w"; [ $((k%1000003)) = ${o%% *} ] || { echo "${o#* }"; exit 1; }
done
"""  # noqa: E501


def check_script(instance: Instance) -> str:
    """Exits 0 with `ok` and the receipt, or 1 with the first broken rule. A duplicated key breaks its
    rule."""
    state, sealed = instance.salt, list[str]()
    for rule in instance.rules:
        after = _mixed(state, rule.value)
        sealed.append(_sealed(state, f"{rule.key} {after % _MARK} {instance.complaint(rule)}"))
        state = after
    sealed.append(_sealed(state, f"ok {instance.receipt}"))
    form, match = instance.words.matcher()
    filled = {"SALT": str(instance.salt), "FORM": form, "MATCH": match}
    filled["SEALED"] = " ".join(f"'{each}'" for each in sealed)
    return re.sub("|".join(filled), lambda found: filled[found[0]], _SCRIPT)


def _mixed(state: int, text: str) -> int:
    for letter in text.encode():
        state = (state * _MULTIPLIER + letter) % _PRIME
    return state


def _sealed(state: int, text: str) -> str:
    """Numbers, one per letter."""
    numbers: list[str] = []
    for letter in text.encode():
        state = (state * _MULTIPLIER + 1) % _PRIME
        numbers.append(str(letter ^ (state >> 16 & 127)))
    return " ".join(numbers)
