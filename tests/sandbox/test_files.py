"""Reading and writing the workspace from the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito.errors import NotFound
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio


async def test_what_is_written_is_there(box: Box) -> None:
    big = bytes(range(256)) * 4096
    await box.write(
        {"a.txt": "text é\n", "deep/er/b.bin": big, "/work/c": "", "run": "#!/bin/sh\necho ran\n"},
        executable=["run"],
    )
    assert (
        await box.sh("stat -c '%a %s %U' a.txt deep/er/b.bin c run; ./run")
    ).output == b"644 8 agent\n644 1048576 agent\n644 0 agent\n755 19 agent\nran\n"
    assert await box.read("deep/er/b.bin") == big
    assert await box.read("/work/a.txt") == "text é\n".encode()
    assert await box.files() == {
        "a.txt": "text é\n".encode(),
        "c": b"",
        "deep/er/b.bin": big,
        "run": b"#!/bin/sh\necho ran\n",
    }


async def test_writing_replaces_plain_files_and_nothing_else(box: Box) -> None:
    await box.sh(
        "ln -s /etc/passwd link; ln -s nowhere loose; mkfifo pipe; echo old > hard; ln hard other; ln -s "
        "/tmp out; mkdir full; touch full/x"
    )
    await box.write({"hard": "new"})
    assert (await box.sh("cat hard other")).output == b"newold\n"
    for path in ("link", "loose", "pipe", "out/x", "full", "hard/x"):
        with pytest.raises(ValueError, match="path="):
            await box.write({path: "never"})
    assert (
        await box.sh("ls /tmp; ls nowhere full")
    ).output == b"ls: cannot access 'nowhere': No such file or directory\nfull:\nx\n"


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "", "/work", "a/../../x", "a\0b", "dir/", "/workx/y"]
)
async def test_a_path_outside_the_workspace_is_refused(box: Box, path: str) -> None:
    with pytest.raises(ValueError, match="path="):
        await box.write({path: "x"})
    with pytest.raises(ValueError, match="path="):
        await box.read(path)


async def test_only_plain_files_are_read(box: Box) -> None:
    await box.sh(
        "ln -s /etc/passwd link; ln -s / root; mkfifo pipe; mkdir dir; truncate -s 10M sparse; echo x > "
        "real; ln -s real inner; chmod 0 dir"
    )
    for path in ("link", "root/etc/passwd", "pipe", "dir", "sparse", "inner"):
        with pytest.raises(ValueError, match="path="):
            await box.read(path)
    with pytest.raises(NotFound):
        await box.read("nothing")
    with pytest.raises(NotFound):
        await box.read("real/below")
    await box.sh("rm sparse")
    assert await box.files() == {"real": b"x\n"}


async def test_too_much_is_an_error_and_never_a_part(box: Box) -> None:
    await box.write({"a": "x" * 600, "b": "y" * 600})
    assert len(await box.files(limit_bytes=1200)) == 2
    with pytest.raises(ValueError, match="limit"):
        await box.files(limit_bytes=1199)
    with pytest.raises(ValueError, match="limit"):
        await box.read("a", limit_bytes=599)
    await box.sh("for i in $(seq 100); do mkdir d; cd d; done")
    with pytest.raises(ValueError, match="deeper"):
        await box.files()


async def test_a_base_directory_lies_under_the_workspace_and_stays_as_it_is(
    pool: Pool, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("print(1)\n")
    (tmp_path / "b").write_text("b")
    (tmp_path / "link").symlink_to("b")
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == tmp_path.stat().st_uid and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)
    spec = SandboxSpec(base=str(tmp_path))
    first = await pool.start(spec)
    assert (await first.sh("python3 src/a.py; rm src/a.py; echo more >> b; cat link")).output == b"1\nbmore\n"
    second = await pool.start(spec)
    assert await second.files() == {"b": b"b", "src/a.py": b"print(1)\n"}
    assert (tmp_path / "b").read_text() == "b"
    with pytest.raises(NotFound, match="nosuch"):
        await pool.start(SandboxSpec(base=str(tmp_path / "nosuch")))
