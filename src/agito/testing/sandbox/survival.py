"""Rules about what an episode may do to its own box: it is always an event, never a failure of the box."""

from __future__ import annotations

from agito.errors import SandboxFailure, Uncapturable
from agito.protocols import Sandbox
from agito.testing.contract import require, rule
from agito.testing.sandbox.base import SandboxBase, require_alive

ROUGH = {
    "signals to every process": (
        "trap '' $(seq 64); for s in $(seq 64); do kill -$s 1; done; kill -KILL -1",
    ),
    "a pattern of names without an end": (
        "mkdir p; cd p; ln -s . a; ln -s . b",
        "echo " + "/".join(["*"] * 24),
    ),
    "a state that cannot be kept": (
        r"printf '/work\0declare -x A=$'\''\\000x'\''\n\0' >&99; kill -9 $$; cd /",
        "ls",
    ),
    "variables that no program can be given": (
        "export A=$(head -c 120000 /dev/zero | tr '\\0' a); export B=$A C=$A; cd /work",
        "ls",
    ),
    "a workspace that is shut": ("mkdir -p s/t; cd s/t; chmod 000 /work/s; chmod 000 /work", "ls"),
}
SHUT = "mkdir -p shut/in; echo 1 > shut/in/a; echo 2 > locked; chmod 000 shut/in/a shut/in shut locked"
DEEP = "n=$(printf d/%.0s {1..70}); mkdir -p $n; echo x > $n/f"


class SurvivalRules(SandboxBase):
    @rule(
        "let nothing that is the episode's block, kill or overwhelm what runs the box: bound it, and time "
        "it out"
    )
    async def test_nothing_that_an_episode_does_ends_its_box(self) -> None:
        async with self.pool() as pool:
            for what, commands in ROUGH.items():
                box = await pool.start(self.spec)
                try:
                    for command in commands:
                        await box.sh(command, timeout_s=1.0)
                    await box.kill()
                    await require_alive(box, what)
                    require((await box.py("print(1)")).output == b"1\n", f"after {what} no snippet runs")
                except (SandboxFailure, TimeoutError) as error:
                    require(False, f"{what} ended the box: {error}")
                await box.close()

    @rule("raise Uncapturable, and no other error, for what the episode left too large, too deep or too long")
    async def test_what_cannot_be_captured_is_said_and_is_no_failure(self) -> None:
        async with self.box() as box:
            await box.sh("head -c 100000 /dev/zero > big")
            require(
                await _captures(box, limit_bytes=99_999) == "Uncapturable",
                "files() of more than limit_bytes is no Uncapturable",
            )
            require(await _captures(box, limit_bytes=100_000) == "big", "files() of limit_bytes fails")
            await box.sh(f"rm big; {DEEP}")
            said = await _captures(box, limit_bytes=1 << 20)
            require(
                said in ("Uncapturable", "d/" * 70 + "f"), f"files() of 70 nested directories gives {said}"
            )

    @rule("open what a mode hides from its owner, or raise Uncapturable; leave no file out without a word")
    async def test_no_mode_hides_a_file_from_a_capture(self) -> None:
        async with self.box() as box:
            await box.sh(SHUT)
            said = await _captures(box, limit_bytes=1 << 20)
            require(
                said in ("Uncapturable", "locked shut/in/a"),
                f"files() gives {said or 'nothing'}, where locked and shut/in/a are",
            )

    @rule("copy any tree, whatever its depth, its modes or the length of its paths")
    async def test_a_snapshot_takes_whatever_tree_there_is(self) -> None:
        async with self.pool() as pool:
            box = await pool.start(self.spec)
            await box.sh(f"{SHUT}; {DEEP}; ln $n/f link")
            look = (
                "cat $(printf d/%.0s {1..70})f; stat -c %a locked shut; stat -c %h link; chmod 700 "
                "shut; stat -c %a shut/in"
            )
            try:
                fork = await pool.fork(await box.snapshot())
            except SandboxFailure as error:
                require(False, f"a snapshot failed: {error}")
                return
            said = (await fork.sh(look)).output
            require(said == b"x\n0\n0\n2\n0\n", f"`{look}` in a fork printed {said!r}")
            for each in (box, fork):
                await each.close()


async def _captures(box: Sandbox, *, limit_bytes: int) -> str:
    """The paths, or what was raised."""
    try:
        return " ".join(await box.files(limit_bytes=limit_bytes))
    except Uncapturable:
        return "Uncapturable"
    except Exception as error:  # anything raised is the finding
        return type(error).__name__
