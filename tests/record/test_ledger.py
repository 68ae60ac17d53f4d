from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from agito.record import Ledger, State
from agito.types import AttemptId, Status


def slots(group: int, num: int = 4, tries: int = 0) -> list[AttemptId]:
    return [AttemptId(group=group, slot=slot, tries=tries) for slot in range(num)]


def run_step(ledger: Ledger, step: int) -> None:
    """What the loop does with one group a step, up to the checkpoint's rename."""
    attempts = slots(step)
    ledger.issue(attempts, step=step)
    for attempt in attempts:
        ledger.seal(attempt, step=step)
        ledger.grade(attempt, Status.SCORED, step=step)
    ledger.consume(step, attempts)
    ledger.publish(ledger.next_version(), step=step)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_an_attempt_goes_from_issued_to_consumed(path: Path) -> None:
    with Ledger(path) as ledger:
        (one,) = slots(0, 1)
        seen = [ledger.state(one)]
        ledger.issue([one], step=1)
        ledger.flush()
        seen.append(ledger.state(one))
        ledger.seal(one, step=1)
        ledger.flush()
        seen.append(ledger.state(one))
        ledger.grade(one, Status.SCORED, step=1)
        ledger.consume(1, [one])
        seen.append(ledger.state(one))
        assert seen == [None, State.ISSUED, State.SEALED, State.CONSUMED]
        assert ledger.counts()[State.CONSUMED] == 1


def test_a_state_never_goes_backwards(path: Path) -> None:
    with Ledger(path) as ledger:
        (one,) = slots(0, 1)
        ledger.grade(one, Status.SCORED, step=1)
        ledger.flush()
        ledger.issue([one], step=1)
        ledger.flush()
        assert ledger.state(one) is State.GRADED


def test_a_slot_is_consumed_by_one_step_only_whatever_its_try(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.consume(1, slots(0))
        with pytest.raises(AssertionError, match="consumes a slot that an earlier step consumed"):
            ledger.consume(2, slots(0, tries=1))
        assert ledger.uncommitted() == {1: tuple(slots(0))}


def test_a_void_attempt_is_never_consumed(path: Path) -> None:
    with Ledger(path) as ledger:
        (one,) = slots(0, 1)
        ledger.grade(one, Status.VOID, step=1)
        with pytest.raises(AssertionError, match="consumes void attempts"):
            ledger.consume(1, [one])
        assert ledger.uncommitted() == {}


def test_what_is_consumed_is_uncommitted_until_the_commit(path: Path) -> None:
    with Ledger(path) as ledger:
        run_step(ledger, 1)
        run_step(ledger, 2)
        assert ledger.uncommitted() == {1: tuple(slots(1)), 2: tuple(slots(2))}
        ledger.commit(2)
        run_step(ledger, 3)
        assert ledger.uncommitted() == {3: tuple(slots(3))}
        assert ledger.committed_step == 2


def test_after_a_crash_everything_past_the_checkpoint_is_forgotten_and_can_be_issued_again(
    path: Path,
) -> None:
    with Ledger(path) as ledger:
        run_step(ledger, 1)
        carried = ledger.uncommitted()
        ledger.commit(1)
        run_step(ledger, 2)
        ledger.issue(slots(3), step=3)
        ledger.flush()
    with Ledger(path) as ledger:
        found = ledger.reconcile(1, carried)
        assert (found.rolled_back, found.restored, found.pending) == (8, 0, ())
        assert [ledger.state(one) for one in (*slots(2, 1), *slots(3, 1))] == [None, None]
        run_step(ledger, 2)
        assert ledger.uncommitted() == {2: tuple(slots(2))}


def test_a_checkpoint_whose_commit_the_ledger_missed_is_still_the_truth(path: Path) -> None:
    with Ledger(path) as ledger:
        run_step(ledger, 1)
        carried = ledger.uncommitted()
    path.unlink()  # as if the last transactions never reached the disk
    with Ledger(path) as ledger:
        assert ledger.reconcile(1, carried).restored == 4
        assert ledger.committed_step == 1
        assert ledger.uncommitted() == {}
        with pytest.raises(AssertionError):
            ledger.consume(2, slots(1))


def test_unfinished_attempts_of_committed_steps_are_named(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.issue(slots(7, 2), step=1)
        ledger.seal(slots(7, 2)[1], step=1)
        ledger.flush()
    with Ledger(path) as ledger:
        assert ledger.reconcile(1, {}).pending == tuple(slots(7, 2))


def test_versions_are_never_used_again_even_after_a_rollback(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.commit(0)
        given = [ledger.next_version() for _ in range(3)]
        for step, version in enumerate(given, start=1):
            ledger.publish(version, step=step)
    with Ledger(path) as ledger:
        ledger.reconcile(0, {})
        assert ledger.next_version() == given[-1] + 1
    assert given == [1, 2, 3]
    rows = sqlite3.connect(path)
    assert rows.execute("SELECT version, rolled_back FROM versions").fetchall() == [(1, 1), (2, 1), (3, 1)]
    rows.close()


def test_a_version_that_was_not_given_out_is_not_published(path: Path) -> None:
    with Ledger(path) as ledger, pytest.raises(AssertionError, match="was not given out"):
        ledger.publish(5, step=1)


def test_a_failed_transaction_changes_nothing_and_loses_nothing_that_waited(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.consume(1, slots(0))
        ledger.issue(slots(1), step=2)
        with pytest.raises(AssertionError):
            ledger.consume(2, [*slots(1), *slots(0)])
        assert ledger.state(slots(1)[0]) is None
        ledger.flush()
        assert ledger.state(slots(1)[0]) is State.ISSUED


def test_a_step_of_256_attempts_costs_five_milliseconds_of_cpu(path: Path) -> None:
    with Ledger(path) as ledger:
        spent: list[float] = []
        for step in range(5):
            attempts = [AttemptId(group=step * 32 + i // 8, slot=i % 8) for i in range(256)]
            start = time.process_time()
            ledger.issue(attempts, step=step)
            for attempt in attempts:
                ledger.seal(attempt, step=step)
                ledger.grade(attempt, Status.SCORED, step=step)
            ledger.consume(step, attempts)
            ledger.commit(step)
            spent.append(time.process_time() - start)
    assert min(spent) <= 0.005, spent
