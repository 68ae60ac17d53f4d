"""Operations on a database, each one a transaction, behind permissions, validation and idempotency keys.

All or nothing: if an operation raises, none of its changes stay. A repeated key with the same request is
answered from the record; with another request it is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import anyio

from agito.types import Call, Exactness, Fault, Json, ToolSpec
from agito.worlds.api.database import Database
from agito.worlds.api.transaction import REQUESTS, Undone
from agito.worlds.component import Answer, overran
from agito.worlds.threads import DeadlinePassed, in_thread

Arguments: TypeAlias = "Mapping[str, Json]"
KEY = "idempotency_key"  # optional parameter of every writing operation
_KEYS = (
    f"CREATE TABLE IF NOT EXISTS {REQUESTS} (key TEXT PRIMARY KEY, caller TEXT, request TEXT, status "
    "INTEGER, body TEXT)"
)
LONGEST_S = 30.0  # time limit of a request over HTTP
_TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


class Problem(Exception):
    """A refusal, with its HTTP status: 403, 404, 409 or 422."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the service. `run` gets the connection, inside a transaction, and arguments that fit
    the tool's schema.

    It may commit, roll back, use `with connection`, run scripts and the caller's own SQL: everything belongs
    to one transaction (`agito.worlds.api.transaction`). Returned bytes are shown in hexadecimal, and numbers
    that JSON lacks as null.
    """

    tool: ToolSpec
    run: Callable[[sqlite3.Connection, Arguments, str], Json]
    writes: bool = False
    roles: tuple[str, ...] = ()  # allowed roles; empty for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """`body` is the operation's result, or `{"error": ...}`."""

    status: int
    body: Json


class Service:
    """Implements `Component`. As tools, its caller is `caller` with `role`; over HTTP, each token has its
    own.
    """

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
        self._turn = anyio.Lock()
        self._done: Reply | None = None  # the last commit, even if its caller has given up
        self._end = ""  # why it no longer answers

    def request(self, name: str, arguments: Arguments, *, caller: str, role: str) -> Reply:
        """Runs in this thread, without a deadline. Never raises for caller input."""
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

    async def handle(
        self, name: str, arguments: Arguments, *, caller: str, role: str, timeout_s: float = LONGEST_S
    ) -> Reply:
        """Runs outside the event loop, one request at a time. At the deadline a request is interrupted and
        undone: status 504.
        """
        connection = self._database.connection
        async with self._turn:
            if self._end:
                return Reply(status=503, body={"error": self._end})
            self._done = None
            try:
                return await in_thread(
                    lambda: self.request(name, arguments, caller=caller, role=role),
                    timeout_s=timeout_s,
                    stop=connection.stop,
                )
            except DeadlinePassed as late:
                if not late.is_over:
                    self._end = f"{self.name} is gone: {name} cannot be interrupted"
                    await in_thread(connection.undo, timeout_s=LONGEST_S)
                return self._done or Reply(status=504, body={"error": "timeout"})

    def _in_transaction(self, operation: Operation, asked: Arguments, caller: str, key: str | None) -> Reply:
        connection = self._database.connection
        try:
            with connection.operation():
                reply = _recorded(connection, operation, asked, caller, key) if key else None
                if reply is None:
                    with connection.guarded():
                        reply = Reply(status=200, body=_as_json(operation.run(connection, asked, caller)))
                    if key:
                        _record(connection, operation, asked, caller, key, reply)
        except (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError, Undone) as error:
            raise Problem(409, f"{operation.tool.name}: {error}") from error
        self._done = reply
        return reply

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        began = time.monotonic()
        reply = await self.handle(
            call.tool, call.arguments, caller=self._caller, role=self._role, timeout_s=timeout_s
        )
        if reply.status == 200:
            return Answer(text=self._text(reply.body))
        if reply.status == 504:
            return overran(began)
        assert isinstance(reply.body, dict)
        return Answer(
            text=f"error {reply.status}: {reply.body['error']}",
            fault=Fault.TOOL if reply.status == 503 else Fault.POLICY,
        )

    async def snapshot(self) -> object:
        return self._database.bytes

    async def fork(self, token: object) -> Service:
        assert isinstance(token, bytes)
        operations = tuple(self._operations.values())
        return Service(
            operations, token, name=self.name, caller=self._caller, role=self._role, text=self._text
        )

    async def digest(self) -> str:
        return self._database.digest()

    async def capture(self) -> Mapping[str, bytes]:
        """The database itself: the grader reads rows, not what was said about them."""
        return {f"{self.name}.sqlite": self._database.bytes}

    async def close(self) -> None:
        self._database.close()


def keyed(tool: ToolSpec) -> ToolSpec:
    """`tool` with the optional parameter `idempotency_key`."""
    properties = tool.parameters["properties"]
    assert isinstance(properties, dict)
    return replace(
        tool, parameters={**tool.parameters, "properties": {**properties, KEY: {"type": "string"}}}
    )


def page(rows: Sequence[Json], arguments: Arguments, *, size: int) -> tuple[list[Json], bool]:
    """The requested page of `rows`, counted from 1, and whether there are more."""
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


def _recorded(
    connection: sqlite3.Connection, operation: Operation, asked: Arguments, caller: str, key: str
) -> Reply | None:
    row = connection.execute(
        f"SELECT caller, request, status, body FROM {REQUESTS} WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        return None
    if row[:2] != (caller, _fingerprint(operation, asked)):
        raise Problem(409, f"{KEY} {key[:40]} was used for another request")
    return Reply(status=row[2], body=json.loads(row[3]))


def _record(
    connection: sqlite3.Connection,
    operation: Operation,
    asked: Arguments,
    caller: str,
    key: str,
    reply: Reply,
) -> None:
    row = (key, caller, _fingerprint(operation, asked), reply.status, json.dumps(reply.body))
    connection.execute(f"INSERT INTO {REQUESTS} VALUES (?, ?, ?, ?, ?)", row)


def _fingerprint(operation: Operation, asked: Arguments) -> str:
    return hashlib.sha256(json.dumps([operation.tool.name, asked], sort_keys=True).encode()).hexdigest()


def _as_json(value: Any) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _as_json(each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in cast("Sequence[Any]", value)]
    return value
