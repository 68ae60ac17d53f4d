"""One run's directory: who may write it, what it is called, what is left of it after a crash.

Two processes never write one run: the writer holds a lock that ends with it. Readers need no lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from shlex import quote
from types import TracebackType

from agito.errors import AgitoError, NotFound
from agito.record.attempt_ledger import Consumed, Ledger
from agito.record.files import reports_full_disk, write_atomically
from agito.record.lock import lock, unlock
from agito.record.metrics import Line, Metrics, trim_metrics
from agito.types import Json

# In the order in which a run goes through them.
PHASES = ("demo", "sft", "before", "rl", "after", "structural", "baselines")


class RunState(StrEnum):
    """What stands at a path."""

    ABSENT = "absent"  # nothing, or an empty directory
    FINISHED = "finished"
    UNFINISHED = "unfinished"
    FOREIGN = "foreign"  # something that is not a run


class RunDir:
    """A run that this process writes. Made by `create` or `open`, ended by `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, path: Path, config_toml: str, meta: Mapping[str, Json]) -> RunDir:
        """A new run. Raises `AgitoError` when `path` is taken: see `state` and `move_aside`; `DiskFull` when
        there is no room.
        """
        found = cls.state(path)
        if found is not RunState.ABSENT:
            remedy = {
                RunState.UNFINISHED: f"go on with --resume {quote(str(path))}, or move it aside",
                RunState.FINISHED: "move it aside",
            }
            raise AgitoError(f"{path}: already there ({found}); {remedy.get(found, 'choose another name')}")
        with reports_full_disk(path):
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, _lock(path))
            run.trajectories.mkdir(exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
        write_atomically(run.config, config_toml.encode(), durable=True)
        run._write_meta({**meta, "schema_version": 1, "started": _now(), "resumed": [], "finished": None})
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run, to go on with it. Raises `NotFound`, or `AgitoError` while another process writes
        it.
        """
        if cls.state(path) in (RunState.ABSENT, RunState.FOREIGN):
            raise NotFound(f"{path}: {no_run(path)}")
        run = cls(path, _lock(path))
        meta = run.meta
        resumed = meta.get("resumed")
        run._write_meta({**meta, "resumed": [*(resumed if isinstance(resumed, list) else []), _now()]})
        return run

    @staticmethod
    def state(path: Path) -> RunState:
        if not path.exists() or (
            path.is_dir() and not any(entry.name != ".lock" for entry in path.iterdir())
        ):
            return RunState.ABSENT
        meta = _read_meta(path)
        if meta is None:
            return RunState.FOREIGN
        return RunState.FINISHED if meta.get("finished") else RunState.UNFINISHED

    @staticmethod
    def move_aside(path: Path) -> Path:
        """Renames a run to `NAME.DATE`, the date being its start; returns where it is now. Raises
        `AgitoError` while it is written.
        """
        meta = _read_meta(path)
        if meta is None:
            raise NotFound(f"{path}: no run there, so nothing is moved; choose another name")
        held = _lock(path)
        try:
            date = str(meta.get("started", "")).split("+")[0].replace(":", "-") or "undated"
            aside = path.with_name(f"{path.name}.{date}")
            for count in range(2, 1000):
                if not aside.exists():
                    break
                aside = path.with_name(f"{path.name}.{date}.{count}")
            return path.rename(aside)
        finally:
            unlock(held)

    @staticmethod
    def is_written(path: Path) -> bool:
        """Whether a process of this machine writes the run."""
        try:
            os.kill(int((path / ".lock").read_text()), 0)
        except PermissionError:  # somebody else's process
            return True
        except (OSError, ValueError):
            return False
        return True

    def rollback(self, phase: str, step: int, consumed: Consumed) -> Ledger:
        """Forgets what is past the committed (`phase`, `step`): metrics, trajectories, ledger. Returns the
        ledger.

        `consumed` is what the committed checkpoint carries.
        """
        committed = _position(phase, step)
        trim_metrics(self.metrics, lambda line: _position(line.phase, line.step) <= committed)
        for file in self.trajectories.glob("*.parquet"):
            name, _, number = file.stem.rpartition("-")
            if _position(name, int(number)) > committed:
                file.unlink()
        ledger = Ledger(self.ledger)
        ledger.reconcile(_ledger_step(committed), consumed)
        return ledger

    def open_metrics(self) -> Metrics:
        """The run's metrics, after those that are there; the clock goes on from the last of them."""
        with reports_full_disk(self.metrics):
            return Metrics(self.metrics, wall_s=trim_metrics(self.metrics, _always))

    def note(self, **facts: Json) -> None:
        """Adds to `run.json`."""
        self._write_meta({**self.meta, **facts})

    def finish(self) -> None:
        """Marks the run as finished; call it last."""
        self.note(finished=_now())

    def close(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._lock >= 0:
            unlock(self._lock)
            self._lock = -1

    @property
    def meta(self) -> dict[str, Json]:
        found = _read_meta(self.path)
        assert found is not None, f"{self.path}/run.json has gone"
        return found

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Everything that happened, in order; see `agito.record.events`."""
        return self.path / "events.jsonl"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def schedule(self) -> Path:
        """What the decoupled loop's schedule saw and decided; see `agito.scheduling.log`."""
        return self.path / "schedule.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def _write_meta(self, meta: Mapping[str, Json]) -> None:
        write_atomically(self.path / "run.json", (json.dumps(meta, indent=2) + "\n").encode(), durable=True)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def no_run(path: Path) -> str:
    """What to say where a run is asked for and none is: the name of one stands for no path."""
    meant = Path("runs") / path.name
    if RunDir.state(meant) in (RunState.FINISHED, RunState.UNFINISHED) and meant != path:
        return f"no run there; did you mean {meant}?"
    return "no run there; give a run's folder, such as runs/quickstart"


def _position(phase: str, step: int) -> tuple[int, int]:
    if phase not in PHASES:
        raise ValueError(f"phase={phase!r}: one of {', '.join(PHASES)}")
    return PHASES.index(phase), step


def _ledger_step(committed: tuple[int, int]) -> int:
    """The ledger counts RL steps: none are committed before that phase, all after it."""
    phase, step = committed
    rl = PHASES.index("rl")
    return step if phase == rl else -1 if phase < rl else 2**62


def _always(line: Line) -> bool:
    return True


def _lock(path: Path) -> int:
    return lock(path, otherwise="is writing this run; wait until it ends, or choose another name")


def _read_meta(path: Path) -> dict[str, Json] | None:
    try:
        found: Json = json.loads((path / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
