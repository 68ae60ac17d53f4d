"""Commands and snippets: output, exit, and what carries over to the next one."""

from __future__ import annotations

import pytest

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.types import Fault
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio


async def printed(box: Box, command: str) -> str:
    return (await box.sh(command)).output.decode()


async def test_a_result_tells_what_happened(box: Box) -> None:
    result = await box.sh("echo out; echo err >&2; exit 7")
    assert (result.exit_code, result.output, result.total_bytes, result.fault, result.killed_by) == (
        7,
        b"out\nerr\n",
        8,
        None,
        None,
    )
    assert 0 < result.wall_s < 5
    assert 0 <= result.cpu_s < 5
    assert 0 < result.peak_mb < 100


async def test_a_signal_is_reported_with_the_code_that_a_shell_gives(box: Box) -> None:
    result = await box.sh("kill -9 $$")
    assert (result.exit_code, result.killed_by) == (137, "signal 9")


@pytest.mark.parametrize(
    "command",
    [
        "cd sub && export KEPT='a b'",
        "cd sub; export KEPT='a b'; exit 3",
        "set -e; cd sub; export KEPT='a b'; false; echo not reached",
        "cd sub; export KEPT='a b'; nosuchprogram",
        "cd sub; export KEPT='a b'; ls | grep nothing",
        "set -u; cd sub; export KEPT='a b'; echo $unset_one",
    ],
)
async def test_directory_and_exported_variables_survive_however_a_command_ends(
    box: Box, command: str
) -> None:
    await box.write({"sub/file": ""})
    await box.sh(command)
    assert await printed(box, 'echo "$PWD:$KEPT"; ls') == "/work/sub:a b\nfile\n"


async def test_awkward_values_survive(box: Box) -> None:
    value = "quote\" dollar$HOME back\\slash tick` 'single' tab\there\nnew line é \x01"
    await box.write({"value": value})
    await box.sh('export V="$(cat value)" EMPTY=; export NEVER_SET; unset LOGNAME')
    assert await printed(box, 'printf "%s" "$V"') == value
    assert await printed(box, 'echo "${EMPTY-unset}${NEVER_SET-unset}${LOGNAME-unset}"') == "unsetunset\n"
    snippet = await box.py("import os; print(os.environ['V'] == open('value').read())")
    assert snippet.output == b"True\n"


async def test_exec_leaves_the_state_as_it_was(box: Box) -> None:
    await box.write({"sub/file": ""})
    await box.sh("cd sub; export A=1")
    assert await printed(box, "export A=2; exec echo $A") == "2\n"
    assert await printed(box, "echo $PWD $A") == "/work/sub 1\n"


async def test_what_is_written_to_the_state_descriptor_corrupts_nothing(box: Box) -> None:
    for junk in (
        "echo junk >&99",
        "printf '/nowhere\\0declare -x A=\"1\\n\\0' >&99",
        "cat /dev/zero | head -c 300000 >&99",
        "exec 99>&-",
    ):
        assert (await box.sh(f"export GOOD=1; {junk}")).fault is None
    await box.sh("export GOOD=2")
    assert await printed(box, "echo $PWD $GOOD") == "/work 2\n"


async def test_a_directory_that_vanished_is_not_the_end(box: Box) -> None:
    await box.sh("mkdir gone; cd gone; rmdir /work/gone")
    assert await printed(box, "cd /work; pwd") == "/work\n"
    assert await printed(box, "pwd") == "/work\n"


async def test_background_jobs_outlive_their_command_and_not_the_kill(box: Box) -> None:
    result = await box.sh("(while :; do echo tick; read -t 0.01 < <(:); done) & echo started")
    assert b"started\n" in result.output
    before = await printed(box, "ps -e -o comm= | grep -c bash")
    assert int(before) >= 1
    await box.kill()
    assert "bash" not in await printed(box, "ps -e -o comm=")


async def test_standard_input_is_empty(box: Box) -> None:
    assert (await box.sh("cat")).output == b""
    assert (await box.sh('read -r line; echo "$?"')).output == b"1\n"
    assert (await box.py("import sys; print(repr(sys.stdin.read()))")).output == b"''\n"


async def test_a_snippet_runs_in_the_shells_directory_and_leaves_no_trace(box: Box) -> None:
    await box.write({"sub/here": ""})
    await box.sh("cd sub; export A=1")
    assert (
        await box.py(
            "import os; print(os.listdir('.'), os.environ['A']); os.environ['A'] = '2'; os.chdir('/'); x = 1"
        )
    ).output == b"['here'] 1\n"
    result = await box.py("import os; print(os.getcwd(), os.environ['A']); print(x)")
    assert result.output.startswith(b"/work/sub 1\n") or b"NameError" in result.output
    assert b"NameError: name 'x' is not defined" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("code", "exit_code", "output"),
    [
        ("raise SystemExit(5)", 5, b""),
        ("import sys; sys.exit('why')", 1, b"why\n"),
        ("import os; os._exit(9)", 9, b""),
        ("1 +", 1, None),
    ],
)
async def test_a_snippet_ends_like_a_script(
    box: Box, code: str, exit_code: int, output: bytes | None
) -> None:
    result = await box.py(code)
    assert result.exit_code == exit_code
    if output is not None:
        assert result.output == output


async def test_only_the_tools_of_the_spec_are_on_the_path(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(tools=("cat", "ls", "nosuch"), env={"EXTRA": "1"}))
    await box.write({"a": "text"})
    assert (await box.sh("cat a")).output == b"text"
    assert (await box.sh("sort a")).exit_code == 127
    assert (await box.sh("sort a")).output == b"bash: line 1: sort: command not found\n"
    assert (await box.sh("echo $EXTRA; type -t ls")).output == b"1\nfile\n"


async def test_two_sandboxes_look_the_same_from_inside(pool: Pool) -> None:
    spec = SandboxSpec(tools=("env", "id", "ls", "hostname"))
    first, second = await pool.start(spec), await pool.start(spec)
    for command in ("env", "id", "hostname", "echo $$ $PPID $BASHPID", "ls -a / /dev /etc /tmp /work"):
        assert (await first.sh(command)).output == (await second.sh(command)).output


async def test_a_used_up_sandbox_says_so(box: Box) -> None:
    await box.close()
    await box.close()
    with pytest.raises(SandboxFailure, match="gone: closed"):
        await box.sh("true")


async def test_a_nul_in_a_command_is_the_policys_fault(box: Box) -> None:
    result = await box.sh("echo a\0b")
    assert (result.exit_code, result.fault) == (127, Fault.POLICY)


@pytest.mark.parametrize("command", ["\ud800", "echo \ud800 | cat", "export A=\ud800", 'cat "\ud800"'])
async def test_half_a_character_is_an_answer_and_not_the_end_of_the_sandbox(box: Box, command: str) -> None:
    for act in (box.sh, box.py):
        result = await act(command)
        assert (result.exit_code, result.fault) == (127, Fault.POLICY)
        assert result.output == b"bash: a command cannot hold half a character\n"
    with pytest.raises(ValueError, match="half a character"):
        await box.launch(command)
    assert await printed(box, "echo still here") == "still here\n"


async def test_a_snippet_sees_the_variables_of_this_moment_and_leaves_none_behind(box: Box) -> None:
    show = "import os; print(os.environ.get('A'), os.environ.get('B')); os.environ['B'] = 'mine'"
    said: list[bytes] = []
    for command in ("export A=1", "true", "unset A; export B=caf", "unset B"):
        await box.sh(command)
        said.append((await box.py(show)).output)
    assert said[:2] == [b"1 None\n"] * 2
    assert said[2:] == [b"None caf\n", b"None None\n"]
