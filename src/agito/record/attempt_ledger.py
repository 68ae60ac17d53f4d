"""`ledger.sqlite`: the state of every attempt, the step that consumed it, and the published weight versions.

One writer. Changes gather in memory until `flush`, `consume` or `commit` writes them in one transaction, so a
crash loses at most the step in flight, which is replayed. The commit itself is the rename of a checkpoint
that carries `uncommitted()`; the ledger follows, and `reconcile` repairs it after a crash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from agito.record.files import disk_full
from agito.types import AttemptId, Status

# Training step to the attempts whose tokens it trained on.
Consumed: TypeAlias = Mapping[int, Sequence[AttemptId]]

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS attempts (
    grp INTEGER NOT NULL, slot INTEGER NOT NULL, try INTEGER NOT NULL,
    state INTEGER NOT NULL,    -- State
    status TEXT,               -- scored or void, once graded
    issued_in INTEGER NOT NULL,    -- training step during which it was issued
    consumed_in INTEGER,       -- training step that trained on it
    PRIMARY KEY (grp, slot, try)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS a_slot_is_consumed_once ON attempts (grp, slot) WHERE consumed_in IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_step ON attempts (consumed_in) WHERE consumed_in IS NOT NULL;
CREATE TABLE IF NOT EXISTS versions (
    version INTEGER PRIMARY KEY, policy TEXT NOT NULL, step INTEGER NOT NULL, rolled_back INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""  # noqa: E501
_UPSERT = """
INSERT INTO attempts (grp, slot, try, state, status, issued_in) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (grp, slot, try) DO UPDATE SET state = max(state, excluded.state), status = coalesce(excluded.status, status)
"""  # noqa: E501
_CONSUME = """
INSERT INTO attempts (grp, slot, try, state, status, issued_in, consumed_in) VALUES (?, ?, ?, 3, 'scored', ?, ?)
ON CONFLICT (grp, slot, try) DO UPDATE SET state = 3, consumed_in = excluded.consumed_in
WHERE consumed_in IS NULL OR consumed_in = excluded.consumed_in
"""  # noqa: E501


class State(IntEnum):
    """How far an attempt got."""

    ISSUED = 0
    SEALED = 1
    GRADED = 2
    CONSUMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """The outcome of `reconcile`. `pending` attempts were issued before the committed step and have no
    verdict."""

    rolled_back: int
    restored: int  # consumed by the checkpoint but missing in the ledger
    pending: tuple[AttemptId, ...]


class Ledger:
    """The only writer of a run's ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reports_trouble():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._db.executescript(_SCHEMA)
        self._waiting: dict[AttemptId, tuple[State, Status | None, int]] = {}

    def issue(self, attempts: Iterable[AttemptId], *, step: int) -> None:
        """Records attempts that start during training step `step`."""
        for attempt in attempts:
            self._waiting[attempt] = (State.ISSUED, None, step)

    def seal(self, attempt: AttemptId, *, step: int) -> None:
        """Records that the attempt has ended; `step` as in `issue`."""
        self._waiting[attempt] = (State.SEALED, None, step)

    def grade(self, attempt: AttemptId, status: Status, *, step: int) -> None:
        """Records the verdict; `step` as in `issue`."""
        self._waiting[attempt] = (State.GRADED, status, step)

    def flush(self) -> None:
        """Writes buffered changes in one transaction. Raises `DiskFull`."""
        with self._transaction():
            pass

    def consume(self, step: int, attempts: Iterable[AttemptId]) -> None:
        """Records that training step `step` trains on these attempts, before its commit. Consuming a slot
        twice breaks an invariant."""
        with self._transaction():
            self._consume(step, attempts)

    def uncommitted(self) -> dict[int, tuple[AttemptId, ...]]:
        """Attempts consumed since the last commit, by step; the next checkpoint must carry them."""
        rows = self._db.execute(
            "SELECT consumed_in, grp, slot, try FROM attempts WHERE consumed_in > ? ORDER BY consumed_in, "
            "grp, slot",
            (self.committed_step,),
        )
        found: dict[int, list[AttemptId]] = {}
        for step, group, slot, tries in rows:
            found.setdefault(step, []).append(AttemptId(group=group, slot=slot, tries=tries))
        return {step: tuple(attempts) for step, attempts in found.items()}

    def commit(self, step: int) -> None:
        """Marks `step` as committed. Call it right after its checkpoint was renamed."""
        with self._transaction():
            self._mark("committed_step", step)

    def reconcile(self, committed_step: int, consumed: Consumed) -> Reconciled:
        """Repairs the ledger after a crash. The checkpoint of `committed_step`, which carries `consumed`, is
        the truth.

        Attempts issued or consumed later are forgotten, and will be issued again under the same key.
        """
        self._waiting.clear()
        with self._transaction() as db:
            gone = db.execute(
                "DELETE FROM attempts WHERE issued_in > ? AND consumed_in IS NULL", (committed_step,)
            ).rowcount
            gone += db.execute("DELETE FROM attempts WHERE consumed_in > ?", (committed_step,)).rowcount
            known = {
                (step, AttemptId(group=group, slot=slot, tries=tries))
                for step, group, slot, tries in db.execute(
                    "SELECT consumed_in, grp, slot, try FROM attempts WHERE consumed_in IS NOT NULL"
                )
            }
            missing = {
                step: [attempt for attempt in listed if (step, attempt) not in known]
                for step, listed in consumed.items()
            }
            for step, attempts in missing.items():
                assert step <= committed_step, (
                    f"the checkpoint of step {committed_step} carries attempts of step {step}"
                )
                self._consume(step, attempts)
            db.execute("UPDATE versions SET rolled_back = 1 WHERE step > ?", (committed_step,))
            self._mark("committed_step", committed_step)
            unfinished = db.execute(
                "SELECT grp, slot, try FROM attempts WHERE state < ? ORDER BY grp, slot, try", (State.GRADED,)
            ).fetchall()
        return Reconciled(
            rolled_back=gone,
            restored=sum(len(attempts) for attempts in missing.values()),
            pending=tuple(
                AttemptId(group=group, slot=slot, tries=tries) for group, slot, tries in unfinished
            ),
        )

    def next_version(self) -> int:
        """A version that was never given out before, not even by a run that crashed or was rolled back; from
        1 on."""
        with self._transaction():
            version = self._marked("last_version", 0) + 1
            self._mark("last_version", version)
        return version

    def publish(self, version: int, *, step: int, policy: str = "main") -> None:
        """Records that `version` of `policy` holds the weights after training step `step`. Publishing a
        version twice breaks an invariant."""
        with self._transaction() as db:
            assert version <= self._marked("last_version", 0), (
                f"version {version} was not given out by next_version"
            )
            db.execute(
                "INSERT INTO versions (version, policy, step) VALUES (?, ?, ?)", (version, policy, step)
            )

    @property
    def committed_step(self) -> int:
        """-1 before the first commit."""
        return self._marked("committed_step", -1)

    def counts(self) -> dict[State, int]:
        """Number of attempts by state, counting flushed ones only."""
        rows: dict[int, int] = dict(
            self._db.execute("SELECT state, count(*) FROM attempts GROUP BY state").fetchall()
        )
        return {state: rows.get(state, 0) for state in State}

    def state(self, attempt: AttemptId) -> State | None:
        """None for an unknown attempt; counts flushed changes only."""
        row = self._db.execute(
            "SELECT state FROM attempts WHERE grp = ? AND slot = ? AND try = ?",
            (attempt.group, attempt.slot, attempt.tries),
        ).fetchone()
        return State(row[0]) if row else None

    def close(self) -> None:
        """Flushes. Idempotent."""
        try:
            if self._waiting:
                self.flush()
        finally:
            self._db.close()

    def _write_waiting(self) -> None:
        rows = [
            (a.group, a.slot, a.tries, state, status, step)
            for a, (state, status, step) in self._waiting.items()
        ]
        self._db.executemany(_UPSERT, rows)

    def _consume(self, step: int, attempts: Iterable[AttemptId]) -> None:
        rows = [(a.group, a.slot, a.tries, step, step) for a in attempts]
        try:
            num_changed = self._db.executemany(_CONSUME, rows).rowcount if rows else 0
        except sqlite3.IntegrityError:  # the same slot under another try
            num_changed = -1
        assert num_changed == len(rows), f"step {step} consumes a slot that an earlier step consumed"
        void = self._db.execute(
            "SELECT grp, slot FROM attempts WHERE consumed_in = ? AND status = 'void'", (step,)
        ).fetchall()
        assert not void, f"step {step} consumes void attempts: {void}"

    def _mark(self, name: str, value: int) -> None:
        self._db.execute(
            "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def _marked(self, name: str, default: int) -> int:
        row = self._db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else default

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._reports_trouble():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write_waiting()
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._waiting.clear()

    @contextmanager
    def _reports_trouble(self) -> Generator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
                raise disk_full(self._path) from error
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
