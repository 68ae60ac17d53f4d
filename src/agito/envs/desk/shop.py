"""The shop behind the desk: its tables, and its API.

The API keeps the books consistent and refuses what makes no sense. The shop's policy is only written down;
the API does not enforce it.
"""

from __future__ import annotations

import sqlite3

from agito.types import Json
from agito.worlds.api import Operation, Problem, Service
from agito.worlds.api.service import Arguments
from agito.worlds.component import spec

PAGE = 3
SCHEMA = """
CREATE TABLE customers (name TEXT PRIMARY KEY, rank TEXT NOT NULL);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customers, item TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'sent', 'back', 'off')), days INTEGER NOT NULL, place TEXT NOT NULL
);
CREATE TABLE refusals (id TEXT PRIMARY KEY REFERENCES orders);
CREATE TABLE refunds (id TEXT PRIMARY KEY REFERENCES orders);
"""  # noqa: E501

ORDERS = spec(
    "orders",
    "The ids of a customer's orders, each its item and a number; three a page, pages from 1.",
    {"name": "string", "page": "integer"},
)
LOOK = spec("look", "One order: state (open, sent, back, off), days since, the customer's rank.", ["order"])
REFUND = spec("refund", "Takes a sent order back and returns the money.", ["order"])
CANCEL = spec("cancel", "Cancels an order that is open or sent.", ["order"])
MOVE = spec("move", "Sends an order that is open or sent to another place.", ["order", "place"])
REFUSE = spec("refuse", "Records that the customer's wish for this order is against the policy.", ["order"])


def _orders(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    name, number = arguments["name"], arguments["page"]
    if connection.execute("SELECT 1 FROM customers WHERE name = ?", (name,)).fetchone() is None:
        raise Problem(404, "no such customer")
    if not isinstance(number, int) or not 1 <= number <= 99:
        raise Problem(422, "page counts from 1")
    found = connection.execute(
        "SELECT id FROM orders WHERE customer = ? ORDER BY days, id LIMIT ? OFFSET ?",
        (name, PAGE + 1, PAGE * (number - 1)),
    ).fetchall()
    rows: list[Json] = [order for (order,) in found[:PAGE]]
    return {"orders": rows, "more": len(found) > PAGE}


def _look(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    row = connection.execute(
        "SELECT state, days, rank FROM orders JOIN customers ON customer = name WHERE id = ?",
        (arguments["order"],),
    ).fetchone()
    if row is None:
        raise Problem(404, "no such order")
    return " ".join(map(str, row))


def _order(connection: sqlite3.Connection, arguments: Arguments, *states: str) -> str:
    """The order's id. Raises `Problem` unless it exists in one of these states."""
    order = arguments["order"]
    assert isinstance(order, str)
    row = connection.execute("SELECT state FROM orders WHERE id = ?", (order,)).fetchone()
    if row is None:
        raise Problem(404, "no such order")
    if row[0] not in states:
        raise Problem(409, f"the order is {row[0]}")
    return order


def _refund(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    order = _order(connection, arguments, "sent")
    connection.execute("UPDATE orders SET state = 'back' WHERE id = ?", (order,))
    connection.execute("INSERT INTO refunds VALUES (?)", (order,))
    return "ok"


def _cancel(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    connection.execute(
        "UPDATE orders SET state = 'off' WHERE id = ?", (_order(connection, arguments, "open", "sent"),)
    )
    return "ok"


def _move(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    order = _order(connection, arguments, "open", "sent")
    connection.execute("UPDATE orders SET place = ? WHERE id = ?", (arguments["place"], order))
    return "ok"


def _refuse(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    connection.execute("INSERT INTO refusals VALUES (?)", (_order(connection, arguments, "open", "sent"),))
    return "ok"


OPERATIONS = (
    Operation(tool=ORDERS, run=_orders),
    Operation(tool=LOOK, run=_look),
    Operation(tool=REFUND, run=_refund, writes=True, roles=("agent",)),
    Operation(tool=CANCEL, run=_cancel, writes=True, roles=("agent",)),
    Operation(tool=MOVE, run=_move, writes=True, roles=("agent",)),
    Operation(tool=REFUSE, run=_refuse, writes=True, roles=("agent",)),
)


def shop(image: bytes) -> Service:
    return Service(OPERATIONS, image, name="shop", text=_text)


def _text(body: Json) -> str:
    """Lines of words, as short as possible."""
    if not isinstance(body, dict):
        return str(body)
    listed = body["orders"]
    assert isinstance(listed, list)
    return "\n".join([*map(str, listed), *(["more"] if body["more"] else [])])
