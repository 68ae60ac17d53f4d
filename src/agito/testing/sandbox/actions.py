"""Rules about what one can do in a box: commands, snippets, files, snapshots."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from agito.testing.contract import require, rule
from agito.testing.sandbox.base import (
    SandboxBase,
    count_processes,
    is_gone,
    read_error,
    require_alive,
    require_says,
    text,
)


class ActionRules(SandboxBase):
    @rule("name how the boxes are kept apart and limited, such as native+cgroup")
    async def test_a_pool_says_its_tier(self) -> None:
        async with self.pool() as pool:
            require(bool(pool.tier.strip()), f"tier={pool.tier!r}")

    @rule(
        "return the command's own exit code and its stdout and stderr in the order in which they were written"
    )
    async def test_a_command_gives_its_exit_code_and_its_output_in_order(self) -> None:
        async with self.box() as box:
            result = await box.sh("echo one; echo two >&2; echo three; exit 3")
            require(result.exit_code == 3, f"exit 3 gave {result.exit_code}")
            require(text(result).split() == ["one", "two", "three"], f"the output is {result.output!r}")
            require(
                result.total_bytes == len(result.output) == 14,
                f"14 bytes were written, total_bytes={result.total_bytes}",
            )
            require(
                result.fault is None and result.killed_by is None,
                f"a plain failure blames {result.fault}, {result.killed_by}",
            )
            require((await box.sh("no-such-program")).exit_code == 127, "a missing program does not give 127")

    @rule("give commands and snippets an empty standard input")
    async def test_a_command_that_reads_its_input_does_not_hang(self) -> None:
        async with self.box() as box:
            require(
                text(await box.sh("cat; echo done", timeout_s=5.0)) == "done",
                "cat without a file did not end",
            )
            require(
                text(await box.py("import sys; print(sys.stdin.read() == '')", timeout_s=5.0)) == "True",
                "stdin is not empty",
            )

    @rule("carry the working directory and exported variables from command to command, and nothing else")
    async def test_directory_and_exported_variables_carry_over_and_nothing_else(self) -> None:
        async with self.box() as box:
            await box.sh("mkdir -p deep/er && cd deep/er && export SEEN='a b' && HIDDEN=1")
            await require_says(
                box,
                "basename $PWD; echo $SEEN; echo [$HIDDEN]",
                "er\na b\n[]",
                "what a command leaves behind",
            )
            await box.sh("unset SEEN; cd ..")
            await require_says(box, "basename $PWD; echo [$SEEN]", "deep\n[]", "what a command takes back")
            await box.sh("cd /; exit 5")
            await require_says(box, "pwd", "/", "a failing command still moves")

    @rule("run each snippet in a fresh fork: what it defines is gone afterwards, what it writes stays")
    async def test_a_snippet_sees_files_but_no_earlier_snippet(self) -> None:
        async with self.box() as box:
            first = await box.py("x = 1\nopen('made.txt', 'w').write('by py')\nprint('ok')")
            require(
                (text(first), first.exit_code) == ("ok", 0),
                f"a snippet printed {text(first)!r}, exit code {first.exit_code}",
            )
            second = await box.py("print('x' in globals())")
            require(text(second) == "False", "a snippet sees the variables of the one before it")
            require(await box.read("made.txt") == b"by py", "what a snippet wrote cannot be read")
            failed = await box.py("raise ValueError('marker')")
            require(
                failed.exit_code not in (0, None) and "marker" in text(failed),
                f"an exception gave {failed.exit_code}: {text(failed)!r}",
            )

    @rule("keep the head and the tail of long output within `output_bytes`, and count every byte")
    async def test_long_output_is_cut_in_the_middle_and_counted(self) -> None:
        async with self.box() as box:
            result = await box.sh("echo HEAD; head -c 300000 /dev/zero | tr '\\0' x; echo TAIL")
            require(
                result.total_bytes == 300_010, f"300010 bytes were written, total_bytes={result.total_bytes}"
            )
            size, most = len(result.output), self.spec.output_bytes + 200
            require(size <= most, f"{size} bytes were kept of an allowance of {self.spec.output_bytes}")
            whole = result.output.startswith(b"HEAD") and result.output.rstrip().endswith(b"TAIL")
            require(whole, f"the output begins {result.output[:8]!r} and ends {result.output[-8:]!r}")

    @rule("give the environment that the spec names and no variable of the host")
    async def test_the_environment_is_the_specs_and_not_the_hosts(self) -> None:
        async with self.box(replace(self.spec, env={"GIVEN": "x=1"})) as box:
            await require_says(box, "echo $GIVEN", "x=1", "a variable of the spec")
            names = set(text(await box.sh("env | sed 's/=.*//'")).split())
            foreign = {
                "VIRTUAL_ENV",
                "PYTHONPATH",
                "PYTEST_CURRENT_TEST",
                "SSH_AUTH_SOCK",
                "OMP_NUM_THREADS",
            } & names
            require(not foreign, f"variables of the host are visible: {sorted(foreign)}")

    @rule("put only the named programs on PATH")
    async def test_only_the_named_tools_are_on_the_path(self) -> None:
        async with self.box(replace(self.spec, tools=("cat", "ls"))) as box:
            await require_says(box, "echo x > f; cat f", "x", "a named tool")
            require((await box.sh("grep x f")).exit_code == 127, "grep was not named, but is there")

    @rule("show the base directory's files in the workspace, and let writes go to the box's own layer")
    async def test_a_base_directory_is_seen_and_never_changed(self) -> None:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            Path(folder).chmod(0o755)
            Path(folder, "given.txt").write_text("base")
            async with self.box(replace(self.spec, base=folder)) as box:
                require(await box.read("given.txt") == b"base", "the base's file cannot be read")
                await box.sh("echo changed > given.txt; echo new > more.txt")
                require(
                    (await box.read("given.txt")).strip() == b"changed",
                    "the box cannot change its view of the base",
                )
            left = {path.name: path.read_text() for path in Path(folder).iterdir()}
            require(left == {"given.txt": "base"}, f"the base now holds {left}")

    @rule("write bytes and text beneath the workspace, make directories, set the executable bit where asked")
    async def test_what_is_written_can_be_read_and_run(self) -> None:
        async with self.box() as box:
            await box.write(
                {"a/b/c.bin": b"\x00\xff", "run": "#!/bin/sh\necho ran\n", "ä ö": "späce"},
                executable=("run",),
            )
            require(await box.read("a/b/c.bin") == b"\x00\xff", "bytes come back changed")
            await require_says(box, "./run; cat 'ä ö'", "ran\nspäce", "files that the host wrote")
            found = await box.files()
            names = sorted(found)
            require(names == ["a/b/c.bin", "run", "ä ö"], f"files() lists {names}")
            require(found["ä ö"].decode() == "späce", f"files() reads {found['ä ö']!r}")

    @rule(
        "open every component beneath the workspace without following links; ValueError otherwise, "
        "NotFound for what is missing"
    )
    async def test_the_host_never_follows_a_path_out_of_the_workspace(self) -> None:
        async with self.box() as box:
            await box.write({"dir/real": "x"})
            await box.sh("ln -s /etc/passwd link; ln -s /etc out; ln -s real dir/near; mkfifo pipe")
            for path in (
                "link",
                "out/passwd",
                "dir/near",
                "pipe",
                "/etc/passwd",
                "../etc/passwd",
                "dir/../../etc/passwd",
                "dir",
            ):
                require(
                    await read_error(box, path) == "ValueError",
                    f"reading {path!r} raised {await read_error(box, path)}, not ValueError",
                )
            require(
                await read_error(box, "absent") == "NotFound",
                "reading what is not there does not raise NotFound",
            )
            require(
                list(await box.files()) == ["dir/real"],
                f"files() follows links or lists other things: {list(await box.files())}",
            )
            for path in ("/etc/x", "../x", "out/x", "link"):
                try:
                    await box.write({path: "mine"})
                except ValueError:
                    continue
                require(False, f"writing {path!r} was accepted")

    @rule(
        "copy files, working directory and variables into the layer; freeze while copying and go on "
        "afterwards"
    )
    async def test_a_fork_starts_from_the_snapshot_and_goes_its_own_way(self) -> None:
        async with self.pool() as pool:
            box = await pool.start(self.spec)
            await box.sh("mkdir -p d && cd d && export V=1 && echo kept > f && echo gone > g")
            layer = await box.snapshot()
            await require_says(box, "basename $PWD; cat f", "d\nkept", "the box after its snapshot")
            await box.sh("echo later > f; rm g")
            forks = [await pool.fork(layer) for _ in range(2)]
            for fork in forks:
                await require_says(fork, "basename $PWD; echo $V; cat f g", "d\n1\nkept\ngone", "a fork")
            await forks[0].sh("echo own > f; rm g; mkdir n")
            await require_says(
                forks[1], "cat f g; ls", "kept\ngone\nf\ng", "a fork beside another that changed"
            )
            await require_says(box, "cat f; ls", "later\nf", "the box beside its forks")
            again = await pool.fork(await forks[0].snapshot())
            await require_says(again, "cat f; ls", "own\nf\nn", "a fork of a fork")
            for each in (box, *forks, again):
                await each.close()
            await pool.drop(layer)

    @rule("kill every process but pid 1, daemons and background jobs among them")
    async def test_killing_leaves_no_process_and_a_box_that_works(self) -> None:
        async with self.box() as box:
            await box.sh("(setsid sleep 1000 >/dev/null 2>&1 &) ; sleep 1000 >/dev/null 2>&1 &")
            before = await count_processes(box)
            await box.kill()
            after = await count_processes(box)
            require(after <= before - 2, f"{before} processes before, {after} after")
            await require_alive(box, "kill")

    @rule("let close do nothing the second time, and raise SandboxFailure from a box that is gone")
    async def test_closing_is_idempotent_and_a_closed_box_says_so(self) -> None:
        async with self.pool() as pool:
            box = await pool.start(self.spec)
            for _ in range(2):
                await box.close()
            require(await is_gone(box), "a closed box still answers")
            open_box = await pool.start(self.spec)
            await pool.aclose()
            require(await is_gone(open_box), "a box outlives its pool")
