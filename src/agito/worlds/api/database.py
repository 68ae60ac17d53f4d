"""Databases as values: built once, copied into every episode, compared row by row by the grader."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from agito.worlds.api.transaction import opened

Cell: TypeAlias = "None | int | float | str | bytes"
Row: TypeAlias = "tuple[Cell, ...]"
# table -> primary key -> column -> value
Tables: TypeAlias = "Mapping[str, Mapping[Row, Mapping[str, Cell]]]"


class Database:
    """One SQLite database in memory. `image` is what `bytes` returns."""

    def __init__(self, image: bytes) -> None:
        self.connection = opened(image)

    @property
    def bytes(self) -> bytes:
        """The whole database, byte for byte."""
        return self.connection.serialize()

    def digest(self) -> str:
        """A hash of the rows in key order: equal contents have equal digests, however they came about."""
        return hashlib.blake2b(repr(dump(self.connection, hidden=True)).encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        self.connection.close()


def image(schema: str, rows: Mapping[str, Sequence[Row]] | None = None) -> bytes:
    """A database with these tables and rows. Raises `sqlite3.Error` if the rows do not fit the schema."""
    database = Database(_empty(schema))
    connection = database.connection
    try:
        connection.execute("BEGIN")
        for table, listed in (rows or {}).items():
            for row in listed:
                connection.execute(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(row))})', row)
        connection.execute("COMMIT")
        return database.bytes
    finally:
        database.close()


@lru_cache(maxsize=64)
def _empty(schema: str) -> bytes:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.executescript(schema)
        return connection.serialize()
    finally:
        connection.close()


def dump(database: sqlite3.Connection | bytes, *, hidden: bool = False) -> Tables:
    """Every table by primary key, in order. Tables whose names begin with `_` are internal; `hidden` includes
    them.
    """
    if isinstance(database, bytes):
        opened = Database(database)
        try:
            return dump(opened.connection, hidden=hidden)
        finally:
            opened.close()
    names = [
        name
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        if hidden or not name.startswith("_")
    ]
    return {name: _rows(database, name) for name in names}


def _rows(connection: sqlite3.Connection, table: str) -> Mapping[Row, Mapping[str, Cell]]:
    columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
    names = [column[1] for column in columns]
    key = sorted((column[5], at) for at, column in enumerate(columns) if column[5]) or [
        (0, at) for at in range(len(columns))
    ]
    listed = connection.execute(f'SELECT * FROM "{table}"').fetchall()
    found = {tuple(row[at] for _, at in key): dict(zip(names, row, strict=True)) for row in listed}
    return {each: found[each] for each in sorted(found, key=repr)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference. `column` is None if a whole row is missing or extra."""

    table: str
    key: Row
    column: str | None
    wanted: Cell
    found: Cell

    def __str__(self) -> str:
        where = f"{self.table}[{', '.join(map(str, self.key))}]"
        if self.column is None:
            return f"{where} {'is missing' if self.found is None else 'should not be there'}"
        return f"{where}.{self.column} is {self.found!r}, wanted {self.wanted!r}"


def differences(wanted: Tables, found: Tables) -> tuple[Change, ...]:
    """Every difference, damage to unrelated rows included. Empty if the goal is reached and nothing else was
    touched.
    """
    changes: list[Change] = []
    for table in sorted({*wanted, *found}):
        ours, theirs = wanted.get(table, {}), found.get(table, {})
        for key in sorted({*ours, *theirs}, key=repr):
            if key not in theirs:
                changes.append(Change(table=table, key=key, column=None, wanted="a row", found=None))
            elif key not in ours:
                changes.append(Change(table=table, key=key, column=None, wanted=None, found="a row"))
            else:
                changes.extend(
                    Change(table=table, key=key, column=column, wanted=ours[key].get(column), found=value)
                    for column, value in theirs[key].items()
                    if column not in ours[key] or ours[key][column] != value
                )
    return tuple(changes)
