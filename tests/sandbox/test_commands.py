"""The two shortcuts for short commands, compared with bash itself."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.commands import as_program, is_stateless
from agito.worlds.sandbox.inside.expand import Beyond, expand

STATEFUL_TEXT = r"""
cd / ¦ ls; cd / ¦ ls && cd / ¦ ls || cd / ¦ ls;cd / ¦ A=1 ¦ export A=1 ¦ ls; A=1 ¦ exit 3 ¦ exec ls ¦ . file ¦ source file ¦
eval cd / ¦ \cd / ¦ "cd" / ¦ 'cd' / ¦ c''d / ¦ command cd / ¦ builtin cd / ¦ $X / ¦ ${X} ¦ `echo cd` / ¦ (cd /) ¦ { cd /; } ¦
pushd / ¦ read A ¦ unset A ¦ printf -v A x ¦ for A in 1; do ls; done ¦ if ls; then cd /; fi ¦ ls & ¦ echo ${A:=1} ¦ echo $((A=1)) ¦
echo $[A=1] ¦ ! cd / ¦ time cd / ¦ set -a ¦ declare -x A=1 ¦ trap 'cd /' EXIT ¦ [[ a ]] && cd / ¦ ((A=1)) ¦ f() { cd /; } ¦
ls <(cd /) ¦ let A=1 ¦ shopt -s lastpipe; echo a | read A ¦ wait ¦ umask 0 ¦ ulimit -n 5 ¦ A=1 B=2 ¦ A+=1 ¦ A[0]=1 ¦ coproc cd / ¦
while cd /; do ls; done
"""  # noqa: E501
STATELESS_TEXT = r"""
ls ¦ ls -la src ¦ cat a b ¦ grep -rn 'a;b' . ¦ echo "$HOME and $1" ¦ echo $HOME ${HOME} ¦ cat < a > b 2>&1 ¦ ls | wc -l | sort ¦
ls && cat a ¦ ls || echo none ¦ ls; pwd ¦ ls; ¦ ./run.sh --flag=1 ¦ python3 -c 'import os; print(1)' ¦
find . -name '*.py' -exec cat {} \; ¦ ls *.txt ~ ¦ ls &> log ¦ echo cd ¦ cdrecord x ¦ forx ¦ test -f a && cat a ¦
sed -i 's/a/b/' file ¦ echo a\ b ¦ ls 2>/dev/null
"""  # noqa: E501
STATEFUL = [*(command.strip() for command in STATEFUL_TEXT.split("¦")), "  cd /", "ls\ncd /"]
STATELESS = [command.strip() for command in STATELESS_TEXT.split("¦")]


@pytest.mark.parametrize("command", STATEFUL)
def test_what_may_change_state_is_given_to_a_whole_shell(command: str) -> None:
    assert not is_stateless(command)
    assert as_program(command) is None


@pytest.mark.parametrize("command", STATELESS)
def test_common_commands_take_the_short_way(command: str) -> None:
    assert is_stateless(command)


WORDS = {
    "ls": ("ls",),
    "ls -la src": ("ls", "-la", "src"),
    "  cat   a\tb ": ("cat", "a", "b"),
    "grep 'a b' \"c d\" e\\ f": ("grep", "a b", "c d", "e f"),
    "sed -i 's/a/b/' x": ("sed", "-i", "s/a/b/", "x"),
    "cat ''": ("cat", ""),
    "cat 'a'\"b\"c": ("cat", "abc"),
    "./x --a=1": ("./x", "--a=1"),
    "find . -exec cat {} \\;": ("find", ".", "-exec", "cat", "{}", ";"),
    "python3 -c 'a\nb'": ("python3", "-c", "a\nb"),
}


@pytest.mark.parametrize("command", WORDS)
def test_plain_words_are_split_as_bash_splits_them(command: str) -> None:
    program = as_program(command)
    assert program is not None
    assert (program.words, program.redirections) == (WORDS[command], ())


@pytest.mark.parametrize(
    "command",
    [
        "echo -n a",
        "pwd",
        "ls ~",
        "ls $HOME",
        "ls > $A",
        "ls 3> a",
        "> a",
        "ls > a b",
        "ls >| a",
        "ls <> a",
        "ls | wc",
        "ls; ls",
        "ls {a,b}",
        "ls # x",
        "A=1 ls",
        "ls 'a'*",
        "l* a",
        "ls [a]",
        'ls "$A"',
        "",
        " ",
        "test -f a",
        "kill 1",
        "ls\nls",
        "'ls'",
        "l\\s",
        "-x",
        "ls é",
    ],
)
def test_what_bash_has_to_interpret_goes_to_bash(command: str) -> None:
    assert as_program(command) is None


PIECES = [
    "ls",
    "cat",
    "cd",
    "/",
    "a",
    "'a b'",
    '"c"',
    "$HOME",
    "\\ ",
    ";",
    "&&",
    "||",
    "|",
    "&",
    "(",
    ")",
    "{",
    "}",
    "=",
    "A=1",
    "export",
    ">",
    "<",
    "2>&1",
    "\n",
    "#",
    "!",
    "~",
    "*",
    "'",
    '"',
    "\\",
    "`",
    "$(",
    "eval",
    "exit",
    "{}",
    "\t",
    "-x",
    "[",
    "]",
    "..",
    "./a",
    "if",
    "then",
    "fi",
]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " "])), min_size=1, max_size=9))
def test_what_passes_for_plain_words_is_what_bash_sees(parts: list[tuple[str, str]]) -> None:
    command = "".join(text + space for text, space in parts)
    program = as_program(command)
    if program is None or program.redirections:
        return
    script = f"set -f -- {command}\nprintf '%s\\0' \"$@\""
    seen = subprocess.run(["/bin/bash", "-c", script], capture_output=True, check=True, cwd="/").stdout
    assert seen.decode() == "".join(f"{word}\0" for word in program.words)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([piece for piece in PIECES if piece != "exit"]), st.sampled_from(["", " "])
        ),
        min_size=1,
        max_size=9,
    )
)
def test_what_passes_for_stateless_changes_no_state(parts: list[tuple[str, str]]) -> None:
    command = "".join(text + space for text, space in parts).replace(">", "")  # nothing is written outside
    if not is_stateless(command):
        return
    script = f"{command}\ntrap - EXIT; builtin pwd; builtin export -p"
    env = {"HOME": "/usr", "PATH": "/nonexistent", "A": "0"}
    plain, after = (
        subprocess.run(
            ["/bin/bash", "-c", text], capture_output=True, cwd="/", env=env, stdin=subprocess.DEVNULL
        )
        for text in ("pwd; export -p", script)
    )
    assert (
        after.stdout.splitlines()[-len(plain.stdout.splitlines()) :] == plain.stdout.splitlines()
        or after.returncode == 2
    )


NAMES = ("a", "b.txt", "ab", ".hidden", "dir/a", "dir/.b", "dir/deep/x", "empty/", "*", "a b", "é", "-n")
PATTERN_PIECES = ("*", "?", "a", "b", "dir", "/", ".", "x", "..", ".hidden", "**", "-", "nothing")


@given(st.lists(st.sampled_from(PATTERN_PIECES), min_size=1, max_size=6))
def test_patterns_of_names_match_what_they_match_in_bash(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    base = tmp_path_factory.getbasetemp() / "names"
    for name in NAMES:
        path = base / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    pattern = "".join(pieces)
    program = as_program(f"printer {pattern}")
    if program is None or not program.globs:
        return
    here = Path.cwd()
    os.chdir(base)
    try:
        found = expand(program.words, program.globs, {"LC_ALL": "C"})
    except Beyond:
        return
    finally:
        os.chdir(here)
    command = ["/bin/bash", "-c", f"printf '%s\\0' printer {pattern}"]
    seen = subprocess.run(command, capture_output=True, check=True, cwd=base, env={"LC_ALL": "C"}).stdout
    assert tuple(os.fsdecode(seen).split("\0")[:-1]) == found


@pytest.mark.parametrize("tail", [";", "(", "'", '"', "&", "\\", "é", "\n", ";("])
def test_no_text_takes_long_to_recognise(tail: str) -> None:
    started = time.process_time()
    for unit in (
        "a",
        "a ",
        " ",
        "2>",
        "2>a ",
        "'",
        "''",
        "'' ",
        "a;",
        '"$a"',
        "\\a",
        "a|",
        "{}",
        ">&",
        "echo 2>&1 ",
        "*",
        "*/",
        "?*",
    ):
        text = "ls " + unit * (4000 // len(unit)) + tail
        as_program(text)
        is_stateless(text)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "command",
    [
        "env",
        "cat /etc/hostname",
        "ls nosuch",
        "nosuch",
        "/work/script",
        "/work/plain",
        "/work",
        "find . -name 'scr*'",
        "cat < plain",
        "cat < nosuch",
        "ls nosuch 2>/dev/null",
        "ls nosuch > new 2>&1",
        "ls nosuch 2>&1 > new",
        "echo one two >> plain",
        "echo text > nosuch/new",
        "cat plain script &> both",
        "echo over > plain",
        "echo x > link",
        "cat < link",
        "cat < pipe",
        "echo x > /usr/new",
        "cat < /proc/self/comm",
        "ls > /dev/null",
        "cat nosuch >&2",
        "echo x > sub",
        "cat s*/*",
        "cat *",
        "ls s* nothing*",
        "grep -r first *",
        "sed -i s/^echo.*/true/ plain",
        "sed -i s/^.*/b/ sub/x",
        "echo *",
    ],
)
async def test_the_direct_way_and_bash_give_the_same_result(pool: Pool, command: str) -> None:
    program = as_program(command)
    assert program is not None

    async def outcome(text: str) -> tuple[object, ...]:
        box = await pool.start(SandboxSpec())
        await box.write(
            {"script": "#!/bin/sh\necho $0 $1\n", "plain": "echo no first line\n", "sub/x": ""},
            executable=["script", "plain"],
        )
        await box.sh("ln -s plain link; mkfifo pipe" if "pipe" in text else "ln -s plain link")
        result = await box.sh(text, timeout_s=0.3 if "pipe" in text else 10)
        lines = sorted(line for line in result.output.splitlines() if not line.startswith(b"SHLVL="))
        return result.exit_code, result.killed_by, lines, await box.files()

    # an empty word in front makes it an expansion
    through_bash = command.replace(program.words[0], '"$X"' + program.words[0], 1)
    assert as_program(through_bash) is None
    assert await outcome(command) == await outcome(through_bash)
