from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agito.errors import CorruptCheckpoint, DiskFull
from agito.learning.trainer import LocalTrainer, TrainerConfig, load_state, save_state
from agito.record.commits import commit, latest, load_meta, prune

CONFIG = TrainerConfig(check_on_policy=False)
FILES = ("trainer.tensors", "trainer.json", "meta.json")


@pytest.fixture
def trained(make_model, make_samples) -> Callable[..., LocalTrainer]:
    """A trainer after `steps` of `phase`, continued from `trainer` where one is given."""

    def run(phase: str, start: int, stop: int, trainer: LocalTrainer | None = None) -> LocalTrainer:
        if trainer is None:
            trainer = LocalTrainer(make_model(), CONFIG)
            trainer.begin_phase(phase, 10)  # type: ignore[arg-type]
        for seed in range(start, stop):
            samples = make_samples(6, seed=seed)
            _ = trainer.step(samples) if phase == "rl" else trainer.sft_step(samples)
        return trainer

    return run


def bits(trainer: LocalTrainer) -> dict[str, bytes]:
    weights = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    return {name: value.numpy().tobytes() for name, value in (weights | trainer.optimizer.moments()).items()}


def saved(trainer: LocalTrainer, directory: Path, **meta: int) -> Path:
    commit(directory, lambda path: save_state(trainer, path), meta=meta)
    return directory


@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_resuming_in_mid_phase_equals_never_having_stopped_bit_for_bit(
    make_model, trained, tmp_path: Path, phase: str
) -> None:
    whole = trained(phase, 0, 6)
    directory = saved(trained(phase, 0, 3), tmp_path / "step-3")
    resumed = LocalTrainer(make_model(seed=99), CONFIG)
    load_state(resumed, directory)
    trained(phase, 3, 6, resumed)
    assert bits(resumed) == bits(whole)
    assert (resumed.version, resumed.phase_step, resumed.phase) == (6, 6, phase)


def test_a_state_is_read_back_bit_for_bit(make_model, trained, tmp_path: Path) -> None:
    trainer = trained("rl", 0, 2)
    directory = saved(trainer, tmp_path / "step-2")
    back = LocalTrainer(make_model(seed=5), CONFIG)
    load_state(back, directory)
    assert bits(back) == bits(trainer)
    assert (back.version, back.phase, back.total_steps, back.phase_step) == (2, "rl", 10, 2)


def test_a_trainer_before_its_first_phase_can_be_kept(make_model, tmp_path: Path) -> None:
    directory = saved(LocalTrainer(make_model(), CONFIG), tmp_path / "step-0")
    back = LocalTrainer(make_model(seed=5), CONFIG)
    load_state(back, directory)
    assert back.phase is None
    assert all(
        torch.equal(a, b)
        for a, b in zip(back.model.named_parameters(), make_model().named_parameters(), strict=True)
        for a, b in [(a[1], b[1])]
    )


def test_a_commit_carries_its_counters(tmp_path: Path) -> None:
    meta = {"consumed": [[0, 3], [1, 2]], "curriculum": {"find-1": 0.5}, "attempts": 17}
    commit(tmp_path / "step-1", lambda path: None, meta=meta)
    assert load_meta(tmp_path / "step-1") == meta


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
@pytest.mark.parametrize("file", FILES)
def test_a_truncated_state_is_reported_and_changes_nothing(
    make_model, trained, tmp_path: Path, file: str, keep: int
) -> None:
    directory = saved(trained("sft", 0, 1), tmp_path / "step-1")
    (directory / file).write_bytes((directory / file).read_bytes()[:keep])
    fresh = LocalTrainer(make_model(seed=5), CONFIG)
    with pytest.raises(CorruptCheckpoint, match=file.replace(".", r"\.")):
        load_meta(directory)
        load_state(fresh, directory)
    assert fresh.phase is None
    assert all(
        torch.equal(a, b)
        for (_, a), (_, b) in zip(
            fresh.model.named_parameters(), make_model(seed=5).named_parameters(), strict=True
        )
    )


def test_one_altered_byte_is_noticed(make_model, trained, tmp_path: Path) -> None:
    directory = saved(trained("sft", 0, 1), tmp_path / "step-1")
    data = bytearray((directory / "trainer.tensors").read_bytes())
    data[-5] ^= 1
    (directory / "trainer.tensors").write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="truncated or altered"):
        load_state(LocalTrainer(make_model(), CONFIG), directory)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_reported(make_model, trained, tmp_path: Path, file: str) -> None:
    directory = saved(trained("sft", 0, 1), tmp_path / "step-1")
    (directory / file).unlink()
    with pytest.raises(CorruptCheckpoint, match=file.replace(".", r"\.")):
        load_meta(directory)
        load_state(LocalTrainer(make_model(), CONFIG), directory)


def test_the_state_of_another_model_is_refused(make_model, trained, tmp_path: Path) -> None:
    directory = saved(trained("sft", 0, 1), tmp_path / "step-1")
    with pytest.raises(CorruptCheckpoint, match="not those of this model"):
        load_state(LocalTrainer(make_model(tie_embeddings=False), CONFIG), directory)


def _altered(directory: Path, *, drop: str = "", shape: str = "", **state: object) -> None:
    """A state that is whole, and yet such as no trainer of this model can have left: without a tensor, or
    with one of another shape.
    """
    tensors = load_file(directory / "trainer.tensors")
    kept = {
        name: value.flatten()[:1] if shape and shape in name else value
        for name, value in tensors.items()
        if not drop or drop not in name
    }
    save_file(kept, directory / "trainer.tensors")
    found = json.loads((directory / "trainer.json").read_text())
    found["sha256"] = hashlib.sha256((directory / "trainer.tensors").read_bytes()).hexdigest()
    (directory / "trainer.json").write_text(json.dumps(found | state))


@pytest.mark.parametrize(
    "how",
    [
        {"phase": "dpo"},
        {"phase": 7},
        {"total_steps": 0},
        {"total_steps": "many"},
        {"phase_step": -1},
        {"phase_step": 1.5},
        {"version": True},
        {"drop": "weights/model.norm"},
        {"drop": "moments/model.norm"},
        {"drop": "exp_avg_sq"},
        {"drop": "momentum"},
        {"drop": "moments/"},
        {"shape": "weights/model.norm"},
        {"shape": "moments/model.norm.weight/exp_avg"},
        {"shape": "q_proj.weight/momentum"},
        {"phase": "sft", "phase_step": 0},
    ],
    ids=str,
)
def test_a_state_that_cannot_be_taken_over_leaves_the_trainer_whole(
    make_model, trained, tmp_path: Path, how: dict[str, str]
) -> None:
    directory = saved(trained("rl", 0, 2), tmp_path / "step-2")
    _altered(directory, **how)
    trainer = trained("sft", 0, 3)
    before, counters = (
        bits(trainer),
        (trainer.phase, trainer.total_steps, trainer.phase_step, trainer.version),
    )
    with pytest.raises(CorruptCheckpoint):
        load_state(trainer, directory)
    assert (trainer.phase, trainer.total_steps, trainer.phase_step, trainer.version) == counters
    assert bits(trainer) == before
    trained("sft", 3, 4, trainer)
    assert bits(trainer) == bits(trained("sft", 0, 4))


def test_a_write_that_fails_leaves_no_trace_and_the_older_commit_intact(trained, tmp_path: Path) -> None:
    trainer = trained("sft", 0, 1)
    older = saved(trainer, tmp_path / "step-1", slot=4)

    def fail(path: Path) -> None:
        save_state(trainer, path)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        commit(tmp_path / "step-2", fail)
    assert list(tmp_path.iterdir()) == [older]
    assert load_meta(older) == {"slot": 4}


def test_a_commit_is_never_overwritten(trained, tmp_path: Path) -> None:
    directory = saved(trained("sft", 0, 1), tmp_path / "step-1", slot=1)
    with pytest.raises(FileExistsError, match="already committed"):
        commit(directory, lambda path: None, meta={"slot": 2})
    assert load_meta(directory) == {"slot": 1}


def test_the_latest_commit_is_the_largest_number_and_never_a_partial_one(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for name in ("step-9", "step-10", "step-x", "final", ".step-11.partial"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path) == tmp_path / "step-10"
    (tmp_path / "step-8").mkdir()
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".step-11.partial",
        "final",
        "step-10",
        "step-9",
        "step-x",
    ]
    with pytest.raises(ValueError, match="keep=0"):
        prune(tmp_path, 0)


COMMIT_FOREVER = """
import sys
from pathlib import Path
from agito.record.commits import commit
parent = Path(sys.argv[1])
for step in range(10**9):
    def write(path):
        for part in range(8):
            (path / str(part)).write_bytes(bytes([step % 256]) * 50_000)
            print(flush=True)
    commit(parent / f"step-{step}", write, meta={"step": step})
"""


@pytest.mark.parametrize("writes", [1, 12, 19, 24])
def test_whatever_is_committed_when_the_process_is_killed_is_whole(tmp_path: Path, writes: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMIT_FOREVER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        for _ in range(writes):
            process.stdout.readline()
        process.kill()
    steps = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(steps) >= (writes - 1) // 8
    for path in steps:
        step = int(path.name[5:])
        assert load_meta(path) == {"step": step}
        assert all((path / str(part)).read_bytes() == bytes([step]) * 50_000 for part in range(8))
    commit(tmp_path / f"step-{len(steps)}", lambda path: None)  # what the killed process left is swept away
    assert not [path for path in tmp_path.iterdir() if path.name == f".step-{len(steps)}.partial"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: (path / "big").write_bytes(bytes(1 << 20)),
        lambda path: save_file({"big": torch.zeros(1 << 18)}, path / "big.safetensors"),
    ],
)
def test_a_full_disk_is_named_and_older_commits_stay_whole(
    make_model, trained, tiny_disk: Path, write
) -> None:
    trainer = trained("sft", 0, 1)
    older = saved(trainer, tiny_disk / "step-1", slot=4)
    with pytest.raises(DiskFull, match="step-2: no space left; free some and resume"):
        commit(tiny_disk / "step-2", write)
    assert list(tiny_disk.iterdir()) == [older]
    back = LocalTrainer(make_model(seed=5), CONFIG)
    load_state(back, older)
    assert bits(back) == bits(trainer)


def test_the_checkpoint_that_a_rise_leads_back_to_is_kept_however_many_come_after_it(tmp_path: Path) -> None:
    # by step: where a rise would have begun if an alarm came next
    rises = {5: 2, 10: 2, 15: 12, 20: 12, 25: 12}
    for step in (0, 5, 10, 15, 20, 25):
        (tmp_path / f"step-{step}").mkdir()
        reach = rises.get(step, 0)
        prune(tmp_path, keep=2, spared=frozenset({"step-0"}), reach=reach)
        found = latest(tmp_path, before=reach + 1)
        assert found is not None and found.name == f"step-{max(each for each in range(0, reach + 1, 5))}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0", "step-10", "step-20", "step-25"]


def test_a_checkpoint_of_weights_that_were_taken_back_is_neither_kept_nor_counted(tmp_path: Path) -> None:
    for step in (0, 5, 10, 15, 18):
        (tmp_path / f"step-{step}").mkdir()
    prune(tmp_path, keep=2, spared=frozenset({"step-0", "step-10"}), reach=16, revoked=range(6, 18))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0", "step-18", "step-5"]
