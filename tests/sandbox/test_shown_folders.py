"""Folders of the host that a pool shows: read-only, where `seen_at` says, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agito.errors import NotFound
from agito.protocols import SandboxSpec, seen_at
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio


async def test_a_folder_that_is_shown_is_read_only_and_nothing_beside_it_is_seen(tmp_path: Path) -> None:
    """Also one within another, and one that an ordinary user could not reach."""
    tmp_path.chmod(0o700)
    shown, secret = tmp_path / "shown", tmp_path / "secret"
    (shown / "inner").mkdir(parents=True)
    shown.chmod(0o755)
    (shown / "word").write_text("hello")
    secret.mkdir()
    place = seen_at(str(shown))
    async with await Pool.open(warm=0, shown=[str(shown), str(shown / "inner")]) as pool:
        box = await pool.start(SandboxSpec())
        found = await box.sh(f"cat {place}/word; ls {Path(place).parent}; ls -a {tmp_path} || echo none")
        assert found.output.decode().startswith("helloshown\n") and b"none" in found.output, found
        changes = " ".join(
            f"({change} {place}/{name}) 2>/dev/null && echo CHANGED;"
            for change, name in (
                ("touch", "new"),
                ("rm -f", "word"),
                ("chmod 777", "word"),
                ("rmdir", "inner"),
            )
        )
        assert (await box.sh(changes)).output == b""
        twin = await pool.fork(await box.snapshot())
        assert (await twin.sh(f"cat {place}/word")).output == b"hello"
    assert (shown / "word").read_text() == "hello"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/", "/etc/passwd"])
async def test_what_cannot_be_shown_is_refused_with_its_name(path: str) -> None:
    with pytest.raises(NotFound, match=path):
        await Pool.open(warm=0, shown=[path])


def test_what_a_sandbox_has_of_its_own_is_shown_beneath_mnt() -> None:
    assert seen_at("/opt/mine") == "/opt/mine" and seen_at("/workshop") == "/workshop"
    assert seen_at("/tmp/mine") == "/mnt/tmp/mine" and seen_at("/work") == "/mnt/work"
