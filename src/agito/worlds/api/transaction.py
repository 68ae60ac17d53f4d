"""A connection on which an operation is all or nothing, whatever it does: commit, roll back, run a script, or
SQL that somebody else wrote.

While an operation runs, an authorizer refuses what would end its transaction, leave the database or change
how it works, and savepoints stand for the transactions that it means to begin itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

REQUESTS = "_requests"  # the record of idempotency keys; no operation reads or writes it
_OURS = "_agito"  # savepoints
_STEPS = 10_000  # of SQLite's machine between two looks at the deadline
_LONGEST_VALUE, _LONGEST_SQL = 1 << 26, 1 << 20  # bytes
_MOST_PAGES = 1 << 14  # of a database that began with fewer
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
    """Nothing of the operation has stayed: a conflict has rolled it back, or it came too late."""


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> _Cursor:
        """Two statements in one string are an error like any other; Python 3.11 warns instead."""
        try:
            super().execute(sql, parameters)
        except sqlite3.Warning as error:
            raise sqlite3.ProgrammingError(str(error)) from None
        return self


class Connection(sqlite3.Connection):
    """See `opened`. It keeps no prepared statements: what was allowed once is asked again."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guarded = 0  # the thread that carries out an operation; the others here are ours
        self._is_late = False
        self._depth = 0  # of `with connection` blocks
        self._ending = threading.Lock()
        self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        self.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_SQL)
        self.set_authorizer(self._may)
        self.set_progress_handler(lambda: self._is_late, _STEPS)

    def bound(self) -> None:
        """Limits what the database can grow to."""
        (pages,) = self.execute("PRAGMA page_count").fetchone()
        self.execute(f"PRAGMA max_page_count = {max(_MOST_PAGES, 2 * pages)}")

    @contextmanager
    def operation(self) -> Generator[None]:
        """One transaction. Raises `Undone` where it did not last, and what is raised inside."""
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
        """Around what an operation does itself. Raises `Undone` where its transaction did not outlast it."""
        self._guarded = threading.get_ident()
        try:
            yield
        finally:
            self._guarded = 0
        if self._is_late or not self.in_transaction:
            raise Undone("it was rolled back")

    def undo(self) -> None:
        """Rolls back whatever is open."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def stop(self) -> None:
        """From another thread: what runs is interrupted, and nothing of it can be committed any more."""
        with self._ending:
            self._is_late = True
        self.interrupt()

    def cursor(self, factory: Any = None, /) -> Any:
        return super().cursor(factory or _Cursor)

    def commit(self) -> None:
        if not self._is_guarded:
            super().commit()

    def rollback(self) -> None:
        """Within an operation: to its beginning."""
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
        """Statement by statement: the library's own commits first."""
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
