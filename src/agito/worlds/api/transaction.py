"""A connection on which an operation is all or nothing, even if it commits, rolls back, runs scripts or
third-party SQL.

While an operation runs, an authorizer refuses whatever would end its transaction, leave the database or
change how it works; savepoints stand in for transactions that it begins itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

REQUESTS = "_requests"  # record of idempotency keys; operations cannot access it
_OURS = "_agito"  # prefix of our savepoints
_STEPS = 10_000  # SQLite VM steps between two checks of the deadline
_LONGEST_VALUE, _LONGEST_SQL = 1 << 26, 1 << 20  # bytes
_MOST_PAGES = 1 << 14  # pages a database may have, unless it began with more
_READING = frozenset(
    (
        "collation_list",
        "compile_options",
        "foreign_key_check",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    )
)
_OUTSIDE = frozenset(
    (
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    )
)


class Undone(Exception):
    """None of the operation's changes stayed: a conflict rolled it back, or it was too late."""


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> _Cursor:
        """Raises an error for two statements in one string; Python 3.11 only warns."""
        try:
            super().execute(sql, parameters)
        except sqlite3.Warning as error:
            raise sqlite3.ProgrammingError(str(error)) from None
        return self


class Connection(sqlite3.Connection):
    """See `opened`. It caches no prepared statements, because the authorizer must check each one again."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guarded = 0  # the thread that runs an operation; statements of other threads are ours
        self._is_late = False
        self._depth = 0  # nesting of `with connection` blocks
        self._ending = threading.Lock()
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        self.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_SQL)
        self.set_authorizer(self._may)
        self.set_progress_handler(lambda: self._is_late, _STEPS)

    def bound(self) -> None:
        """Limits the size of the database."""
        (pages,) = self.execute("PRAGMA page_count").fetchone()
        self.execute(f"PRAGMA max_page_count = {max(_MOST_PAGES, 2 * pages)}")

    @contextmanager
    def operation(self) -> Generator[None]:
        """One transaction. Raises `Undone` if it was rolled back, and whatever is raised inside."""
        self._is_late, self._depth = False, 0
        self.execute("BEGIN IMMEDIATE")
        try:
            self.execute(f"SAVEPOINT {_OURS}")
            yield
            with self._ending:
                if self._is_late or not self.in_transaction:
                    raise Undone("it was rolled back")
                self.execute("COMMIT")
        except BaseException as error:
            was_lost = not self.in_transaction
            self.undo()
            if (
                was_lost
                and isinstance(error, sqlite3.DatabaseError)
                and not isinstance(error, sqlite3.IntegrityError)
            ):
                raise Undone(str(error)) from error
            raise

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Marks an operation's own statements. Raises `Undone` if its transaction was ended."""
        self._guarded = threading.get_ident()
        try:
            yield
        finally:
            self._guarded = 0
        if self._is_late or not self.in_transaction:
            raise Undone("it was rolled back")

    def undo(self) -> None:
        """Rolls back any open transaction."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def stop(self) -> None:
        """Called from another thread: interrupts the running statement and forbids the commit."""
        with self._ending:
            self._is_late = True
        self.interrupt()

    def cursor(self, factory: Any = None, /) -> Any:
        return super().cursor(factory or _Cursor)

    def commit(self) -> None:
        if not self._is_guarded:
            super().commit()

    def rollback(self) -> None:
        """Within an operation, rolls back to its start."""
        if self._is_guarded:
            self._own(f"ROLLBACK TO {_OURS}")
        else:
            super().rollback()

    def __enter__(self) -> Connection:
        if self._is_guarded:
            self._depth += 1
            self._own(f"SAVEPOINT {_OURS}{self._depth}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> Literal[False]:
        if not self._is_guarded:
            return super().__exit__(kind, error, trace)
        name, self._depth = f"{_OURS}{self._depth}", self._depth - 1
        if self.in_transaction:
            if kind is not None:
                self._own(f"ROLLBACK TO {name}")
            self._own(f"RELEASE {name}")
        return False

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        """Runs statement by statement, because the library's own version commits first."""
        if not self._is_guarded:
            return super().executescript(sql_script)
        cursor, statement = self.cursor(), ""
        for piece in sql_script.split(";"):
            statement += piece + ";"
            if sqlite3.complete_statement(statement):
                cursor.execute(statement)
                statement = ""
        if statement.strip("; \n\t"):
            cursor.execute(statement)
        return cursor

    @property
    def _is_guarded(self) -> bool:
        return self._guarded == threading.get_ident()

    def _own(self, statement: str) -> None:
        mine, self._guarded = self._guarded, 0
        try:
            self.execute(statement)
        finally:
            self._guarded = mine

    def _may(
        self, action: int, first: str | None, second: str | None, schema: str | None, inside: str | None
    ) -> int:
        if not self._is_guarded:
            return sqlite3.SQLITE_OK
        if not self.in_transaction or self._is_late or action in _OUTSIDE:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() not in _READING:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_SAVEPOINT and (second or "").lower().startswith(_OURS):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension":
            return sqlite3.SQLITE_DENY
        names = ((first or "").lower(), (second or "").lower())
        return sqlite3.SQLITE_DENY if REQUESTS in names else sqlite3.SQLITE_OK


def opened(image: bytes) -> Connection:
    """A copy of a database, in memory. Any thread may use it, one at a time."""
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, cached_statements=0, factory=Connection
    )
    connection.deserialize(image)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.bound()
    return connection
