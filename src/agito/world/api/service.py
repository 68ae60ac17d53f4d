"""The service: operations on a database, each one a transaction, behind permissions, validation and idempotency keys.

All or nothing: whatever an operation raises, nothing of it stays. The same key with the same request is answered from the record and
not carried out again; with another request it is refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agito.types import Call, Exactness, Fault, Json, ToolSpec
from agito.world.api.database import Database
from agito.world.component import Answer

Arguments: TypeAlias = "Mapping[str, Json]"
KEY = "idempotency_key"  # an optional parameter of every operation that writes
_KEYS = "CREATE TABLE IF NOT EXISTS _requests (key TEXT PRIMARY KEY, caller TEXT, request TEXT, status INTEGER, body TEXT)"
_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}


class Problem(Exception):
    """What an operation refuses, with the status that HTTP would give it: 403, 404, 409, 422."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that the service does. `run` gets the connection, inside a transaction, and arguments that fit the tool's schema."""

    tool: ToolSpec
    run: Callable[[sqlite3.Connection, Arguments, str], Json]
    writes: bool = False
    roles: tuple[str, ...] = ()  # who may; empty: everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """`body` is what the operation returned, or `{"error": ...}`."""

    status: int
    body: Json


class Service:
    """Implements `Component`. As tools, its caller is `caller` in `role`; over HTTP, each token has its own."""

    exactness = Exactness.EXACT

    def __init__(
        self,
        operations: Sequence[Operation],
        image: bytes,
        *,
        name: str = "api",
        caller: str = "agent",
        role: str = "agent",
        text: Callable[[Json], str] = lambda body: json.dumps(body, ensure_ascii=False),
    ) -> None:
        self.name, self._caller, self._role, self._text = name, caller, role, text
        self._operations = {operation.tool.name: operation for operation in operations}
        self.tools = tuple(operation.tool for operation in operations)
        self._database = Database(image)
        self._database.connection.execute(_KEYS)

    def request(self, name: str, arguments: Arguments, *, caller: str, role: str) -> Reply:
        """Never raises for what a caller can send."""
        operation = self._operations.get(name)
        try:
            if operation is None:
                raise Problem(404, f"no operation {name[:40]}; there are {', '.join(self._operations)}")
            if operation.roles and role not in operation.roles:
                raise Problem(403, f"{name}: {role} may not do this")
            asked = dict(arguments)
            key = asked.pop(KEY, None)
            _validate(operation.tool, asked)
            if key is not None and not (isinstance(key, str) and 0 < len(key) <= 200):
                raise Problem(422, f"{KEY} must be a string of 1 to 200 characters")
            return self._in_transaction(operation, asked, caller, key if operation.writes else None)
        except Problem as problem:
            return Reply(status=problem.status, body={"error": str(problem)})

    def _in_transaction(self, operation: Operation, asked: Arguments, caller: str, key: str | None) -> Reply:
        connection = self._database.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            known = _recorded(connection, operation, asked, caller, key) if key else None
            if known is None:
                known = Reply(status=200, body=operation.run(connection, asked, caller))
                if key:
                    _record(connection, operation, asked, caller, key, known)
        except (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError) as error:
            connection.execute("ROLLBACK")
            raise Problem(409, f"{operation.tool.name}: {error}") from error
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return known

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        reply = self.request(call.tool, call.arguments, caller=self._caller, role=self._role)
        if reply.status == 200:
            return Answer(text=self._text(reply.body))
        assert isinstance(reply.body, dict)
        return Answer(text=f"error {reply.status}: {reply.body['error']}", fault=Fault.POLICY)

    async def snapshot(self) -> object:
        return self._database.bytes

    async def fork(self, token: object) -> Service:
        assert isinstance(token, bytes)
        operations = tuple(self._operations.values())
        return Service(operations, token, name=self.name, caller=self._caller, role=self._role, text=self._text)

    async def digest(self) -> str:
        return self._database.digest()

    async def capture(self) -> Mapping[str, bytes]:
        """The database itself: the grader reads rows, never what was said about them."""
        return {f"{self.name}.sqlite": self._database.bytes}

    async def close(self) -> None:
        self._database.close()


def keyed(tool: ToolSpec) -> ToolSpec:
    """`tool` with the optional parameter `idempotency_key`."""
    properties = tool.parameters["properties"]
    assert isinstance(properties, dict)
    return replace(tool, parameters={**tool.parameters, "properties": {**properties, KEY: {"type": "string"}}})


def page(rows: Sequence[Json], arguments: Arguments, *, size: int) -> tuple[list[Json], bool]:
    """The rows of the page that `arguments` asks for, counted from 1, and whether there are more."""
    number = arguments.get("page", 1)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1_000_000:
        raise Problem(422, "page must be a number from 1")
    return list(rows[(number - 1) * size : number * size]), len(rows) > number * size


def _validate(tool: ToolSpec, arguments: Arguments) -> None:
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required", [])
    assert isinstance(properties, dict) and isinstance(required, list)
    missing = [name for name in required if name not in arguments]
    unknown = [name[:40] for name in arguments if name not in properties]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"does not take {unknown[0]}"
        raise Problem(422, f"{tool.name} {what}; its parameters are {', '.join(properties) or 'none'}")
    for name, value in arguments.items():
        schema = properties[name]
        kind = str(schema.get("type", "string")) if isinstance(schema, dict) else "string"
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise Problem(422, f"{tool.name}: {name} must be of type {kind}")


def _recorded(connection: sqlite3.Connection, operation: Operation, asked: Arguments, caller: str, key: str) -> Reply | None:
    row = connection.execute("SELECT caller, request, status, body FROM _requests WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row[:2] != (caller, _fingerprint(operation, asked)):
        raise Problem(409, f"{KEY} {key[:40]} was used for another request")
    return Reply(status=row[2], body=json.loads(row[3]))


def _record(connection: sqlite3.Connection, operation: Operation, asked: Arguments, caller: str, key: str, reply: Reply) -> None:
    row = (key, caller, _fingerprint(operation, asked), reply.status, json.dumps(reply.body))
    connection.execute("INSERT INTO _requests VALUES (?, ?, ?, ?, ?)", row)


def _fingerprint(operation: Operation, asked: Arguments) -> str:
    return hashlib.sha256(json.dumps([operation.tool.name, asked], sort_keys=True).encode()).hexdigest()
