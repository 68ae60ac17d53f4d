"""A leak of every kind is planted, found, and gone after scrubbing; what cannot be scrubbed stops the
episode.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agito.errors import AnswerReachable, SandboxFailure
from agito.grading.candidate_box import BOX
from agito.grading.probe import probe
from agito.grading.scrub import prove, scrub
from agito.types import Json
from agito.worlds.sandbox import Pool

ANSWER = "return (x ^ 0x5eed) % 8191"
PLAIN = {"solve.py": b"def solve(x):\n    raise NotImplementedError\n", "docs/guide.txt": b"Write solve.\n"}
SPEC = replace(BOX, mem_mb=512, work_mb=16, cpu_s=60)


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("solve.py", f"def solve(x):\n    {ANSWER}\n")
    return buffer.getvalue()


def by_git(tmp_path: Path, *commands: str) -> dict[str, bytes]:
    """A real repository whose history holds the answer."""
    who = {f"GIT_{role}_{what}": "a" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    quiet = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null"}
    script = [
        "git init -q -b main .",
        f"echo '{ANSWER}' >old.py",
        "git add .",
        "git commit -qm right",
        "git rm -q old.py",
        *commands,
    ]
    (tmp_path / "solve.py").write_bytes(PLAIN["solve.py"])
    for command in script:
        subprocess.run(command, shell=True, cwd=tmp_path, env=quiet, check=True, timeout=20)
    return {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file()
    }


FILES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "a log": lambda _: {"run/debug.log": f"wanted {ANSWER}".encode()},
    "a compressed log": lambda _: {"debug.log.gz": gzip.compress(ANSWER.encode())},
    "a wheel": lambda _: {"dist/solve-1-py3-none-any.whl": zipped()},
    "an editor's swap file": lambda _: {".solve.py.swp": ANSWER.encode()},
    "a compiled module": lambda _: {
        "__pycache__/solve.cpython-311.pyc": b"\xa7\r\r\n" + bytes(12) + ANSWER.encode()
    },
    "an earlier episode's report": lambda _: {"reward.json": f'{{"answer": "{ANSWER}"}}'.encode()},
    "the last commit but one, loose": lambda path: by_git(path, "git commit -qm now"),
    "a packed history": lambda path: by_git(path, "git commit -qm now", "git gc -q --aggressive --prune=now"),
    "an object that no branch reaches": lambda path: by_git(
        path, "git checkout -q --orphan new", "git commit -qm now", "git branch -D main -q", "rm -r .git/logs"
    ),
    "a stash": lambda path: by_git(path, "git commit -qm now", f"echo '{ANSWER}' >>solve.py", "git stash -q"),
}


@pytest.mark.parametrize("kind", FILES)
async def test_a_leak_in_the_files_is_found_and_scrubbing_removes_it(
    pool: Pool, tmp_path: Path, kind: str
) -> None:
    planted = PLAIN | FILES[kind](tmp_path)
    before, after = await pool.start(SPEC), await pool.start(SPEC)
    await before.write(planted)
    with pytest.raises(AnswerReachable, match="git" if ".git/HEAD" in planted else "file|compiled"):
        await prove(before, [ANSWER], libraries=False)
    scrubbed = scrub(planted)
    assert set(PLAIN) & set(planted) <= set(scrubbed.files) and scrubbed.removed
    await after.write(scrubbed.files)
    await prove(after, [ANSWER], libraries=False)
    log = await after.sh("git log --oneline | wc -l; git status --porcelain; git fsck --full --strict")
    assert log.output == b"1\n"
    for box in (before, after):
        await box.close()


LISTEN = (
    "import socket, time; s = socket.socket({family}); s.bind({address}); s.listen(); open('/tmp/up', "
    "'w'); time.sleep(60)"
)
TCP = LISTEN.format(family="socket.AF_INET", address="('127.0.0.1', 8000)")
UNIX = LISTEN.format(family="socket.AF_UNIX", address="chr(0) + 'answers'")
UNTIL_UP = "until [ -e /tmp/up ]; do sleep 0.01; done"
COMMANDS = {
    "/proc": f"(exec -a '{ANSWER}' sleep 60) &",
    "files": f"echo '{ANSWER}' >/tmp/notes",
    "sockets: something listens": f'python3 -c "{TCP}" & {UNTIL_UP}',
    "sockets: unix": f'python3 -c "{UNIX}" & {UNTIL_UP}',
}


@pytest.mark.parametrize("surface", COMMANDS)
async def test_a_leak_beside_the_files_is_found(pool: Pool, surface: str) -> None:
    box = await pool.start(SPEC)
    await box.write(scrub(PLAIN).files)
    assert (await box.sh(COMMANDS[surface])).exit_code == 0
    with pytest.raises(AnswerReachable, match=surface):
        await prove(box, [ANSWER], libraries=False)
    await box.close()


async def test_an_answer_in_an_environment_variable_is_found(pool: Pool) -> None:
    box = await pool.start(replace(SPEC, env={"EXPECTED": ANSWER}))
    with pytest.raises(AnswerReachable, match="environment variables"):
        await prove(box, [ANSWER], libraries=False)
    await box.close()


async def test_an_installed_copy_of_the_solution_is_found_on_the_module_path(pool: Pool) -> None:
    box = await pool.start(replace(SPEC, env={"PYTHONPATH": "/tmp/site-packages"}))
    await box.sh(f"mkdir /tmp/site-packages; echo '{ANSWER}' >/tmp/site-packages/solve.py")
    with pytest.raises(AnswerReachable, match=r"site-packages/solve\.py"):
        await prove(box, [ANSWER])
    await box.close()


async def test_an_answer_in_the_layer_below_the_workspace_is_found(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text(ANSWER)
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_mode & 0o777 == 0o700:
            place.chmod(0o755)  # the sandbox's user is nobody
    box = await pool.start(replace(SPEC, base=str(tmp_path)))
    with pytest.raises(AnswerReachable, match=r"kept\.txt"):
        await prove(box, [ANSWER], libraries=False)
    await box.close()


async def test_a_store_that_borrows_from_another_is_found(pool: Pool) -> None:
    box = await pool.start(SPEC)
    await box.write(scrub(PLAIN).files | {".git/objects/info/alternates": b"/tmp/other\n"})
    assert any("another store" in each for each in await probe(box, [ANSWER.encode()], libraries=False))
    await box.close()


async def test_a_search_that_does_not_finish_proves_nothing_and_says_so(pool: Pool) -> None:
    box = await pool.start(replace(BOX, mem_mb=8))
    with pytest.raises(SandboxFailure, match="did not finish"):
        await prove(box, [ANSWER])
    await box.close()


def test_answers_that_stand_everywhere_are_refused() -> None:
    answers: list[list[Json]] = [[], ["42"]]
    for wrong in answers:
        with pytest.raises(ValueError, match="8 bytes"):
            prove(None, wrong).send(None)  # type: ignore[arg-type]


def test_scrubbing_keeps_what_it_is_told_to_keep() -> None:
    files = PLAIN | {"data/run.log": b"input of the task\n"}
    assert scrub(files).removed == ("data/run.log",)
    assert "data/run.log" in scrub(files, keep=("data/*",)).files
