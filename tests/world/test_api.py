"""The API layer over a real database, as tools and over real HTTP: permissions, validation, transactions,
idempotency, damage.
"""

from __future__ import annotations

import socket
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agito.protocols import SandboxSpec
from agito.types import Call, Fault, Json
from agito.worlds.api import Database, Operation, Problem, Service, differences, dump, image
from agito.worlds.api.http import app, listening
from agito.worlds.api.service import Arguments, keyed, page
from agito.worlds.component import spec
from agito.worlds.sandbox import Pool

SCHEMA = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, owner TEXT NOT NULL, cents INTEGER NOT NULL CHECK (cents >= 0));
CREATE TABLE transfers (id INTEGER PRIMARY KEY, source TEXT REFERENCES accounts, target TEXT REFERENCES accounts, cents INTEGER);
"""  # noqa: E501
HALF_A_BODY = (
    b"POST /accounts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t-ann\r\nContent-Length: 99\r\n\r\n{"
)
ROWS = {"accounts": [("a", "ann", 100), ("b", "bob", 50), ("c", "bob", 7)]}


def _transfer(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    source, target, cents = arguments["source"], arguments["target"], arguments["cents"]
    owner = connection.execute("SELECT owner FROM accounts WHERE name = ?", (source,)).fetchone()
    if owner is None:
        raise Problem(404, f"no account {source}")
    if owner[0] != caller:
        raise Problem(403, f"{source} is not yours")
    connection.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, target))
    connection.execute("UPDATE accounts SET cents = cents - ? WHERE name = ?", (cents, source))
    done = connection.execute(
        "INSERT INTO transfers (source, target, cents) VALUES (?, ?, ?)", (source, target, cents)
    )
    return {"transfer": done.lastrowid}


def _accounts(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    names: list[Json] = [name for (name,) in connection.execute("SELECT name FROM accounts ORDER BY name")]
    shown, more = page(names, arguments, size=2)
    return {"names": shown, "more": more}


OPERATIONS = (
    Operation(
        tool=keyed(
            spec("transfer", "Moves money.", {"source": "string", "target": "string", "cents": "integer"})
        ),
        run=_transfer,
        writes=True,
    ),
    Operation(tool=spec("accounts", "Lists accounts, two a page.", {"page": "integer"}), run=_accounts),
    Operation(
        tool=spec("audit", "For auditors.", []),
        run=lambda connection, arguments, caller: "fine",
        roles=("auditor",),
    ),
)


INSIDE = """
import http.client, json
link = http.client.HTTPConnection("127.0.0.1", {port}, timeout=5)
body = json.dumps(dict(source="a", target="b", cents={cents}))
link.request("POST", "/transfer", body, dict(Authorization="Bearer t-ann"))
answer = link.getresponse()
print(answer.status, answer.read().decode())
"""


def service() -> Service:
    return Service(OPERATIONS, image(SCHEMA, ROWS), caller="ann")


def ask(of: Service, name: str, **arguments: Json) -> tuple[int, Json]:
    reply = of.request(name, arguments, caller="ann", role="agent")
    return reply.status, reply.body


async def state(of: Service) -> Mapping[str, object]:
    return dump((await of.capture())["api.sqlite"])


async def test_an_operation_changes_the_database_and_nothing_else() -> None:
    bank = service()
    assert ask(bank, "transfer", source="a", target="b", cents=30) == (200, {"transfer": 1})
    wanted = dump(
        image(
            SCHEMA,
            {
                "accounts": [("a", "ann", 70), ("b", "bob", 80), ("c", "bob", 7)],
                "transfers": [(1, "a", "b", 30)],
            },
        )
    )
    assert differences(wanted, dump((await bank.capture())["api.sqlite"])) == ()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        # the check fails after the target was already credited
        ({"source": "a", "target": "b", "cents": 101}, 409),
        ({"source": "a", "target": "nobody", "cents": 1}, 409),  # the foreign key fails last of all
        ({"source": "b", "target": "a", "cents": 1}, 403),
        ({"source": "x", "target": "a", "cents": 1}, 404),
        ({"source": "a", "target": "b"}, 422),
        ({"source": "a", "target": "b", "cents": "1"}, 422),
        ({"source": "a", "target": "b", "cents": True}, 422),
        ({"source": "a", "target": "b", "cents": 1, "fee": 0}, 422),
        ({"source": "a", "target": "b", "cents": 10**30}, 409),
        ({"source": "a\ud800", "target": "b", "cents": 1}, 409),
        ({"source": "a", "target": "b", "cents": 1, "idempotency_key": ""}, 422),
    ],
)
async def test_what_is_refused_leaves_nothing_behind(arguments: dict[str, Json], status: int) -> None:
    bank = service()
    before = await state(bank)
    found, body = ask(bank, "transfer", **arguments)
    assert found == status and isinstance(body, dict) and body["error"]
    assert await state(bank) == before


async def test_the_same_key_is_carried_out_once_and_another_request_under_it_is_refused() -> None:
    bank = service()
    first = ask(bank, "transfer", source="a", target="b", cents=10, idempotency_key="k")
    digest = await bank.digest()
    assert ask(bank, "transfer", source="a", target="b", cents=10, idempotency_key="k") == first
    assert await bank.digest() == digest
    assert ask(bank, "transfer", source="a", target="b", cents=11, idempotency_key="k")[0] == 409
    assert ask(bank, "transfer", source="a", target="b", cents=10, idempotency_key="l")[1] == {"transfer": 2}


def test_a_role_may_do_only_what_it_may() -> None:
    bank = service()
    assert ask(bank, "audit")[0] == 403
    assert bank.request("audit", {}, caller="eve", role="auditor").body == "fine"
    assert ask(bank, "fly")[0] == 404


def test_long_lists_come_in_pages() -> None:
    bank = service()
    assert ask(bank, "accounts", page=1) == (200, {"names": ["a", "b"], "more": True})
    assert ask(bank, "accounts", page=2) == (200, {"names": ["c"], "more": False})
    assert ask(bank, "accounts", page=0)[0] == 422


def test_damage_to_rows_that_nobody_asked_about_is_found() -> None:
    wanted = dump(image(SCHEMA, ROWS))
    found = dump(image(SCHEMA, {"accounts": [("a", "ann", 100), ("b", "eve", 50), ("d", "ann", 1)]}))
    assert [str(change) for change in differences(wanted, found)] == [
        "accounts[b].owner is 'eve', wanted 'bob'",
        "accounts[c] is missing",
        "accounts[d] should not be there",
    ]


async def test_a_fork_goes_its_own_way_and_equal_contents_have_equal_digests() -> None:
    bank = service()
    ask(bank, "transfer", source="a", target="b", cents=1)
    fork = await bank.fork(await bank.snapshot())
    assert await fork.digest() == await bank.digest()
    ask(fork, "transfer", source="a", target="b", cents=1)
    assert await fork.digest() != await bank.digest()
    ask(bank, "transfer", source="a", target="b", cents=1)
    assert await fork.digest() == await bank.digest()
    await bank.close()
    assert ask(fork, "accounts", page=1)[0] == 200


async def test_as_a_tool_a_refusal_is_an_event_that_the_policy_can_read() -> None:
    answer = await service().call(
        Call(tool="transfer", arguments={"source": "b", "target": "a", "cents": 1}), timeout_s=1.0
    )
    assert answer.fault is Fault.POLICY and answer.text == "error 403: b is not yours"


@asynccontextmanager
async def client(bank: Service) -> AsyncGenerator[httpx.AsyncClient]:
    tokens = {"t-ann": ("ann", "agent"), "t-eve": ("eve", "auditor")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "api.socket"
        async with (
            listening(app(bank, tokens), path),
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://api", timeout=10.0
            ) as http,
        ):
            yield http


async def test_over_http_the_same_rules_hold() -> None:
    bank = service()
    async with client(bank) as http:
        ann = {"Authorization": "Bearer t-ann", "Idempotency-Key": "k"}
        body = {"source": "a", "target": "b", "cents": 30}
        first = await http.post("/transfer", json=body, headers=ann)
        again = await http.post("/transfer", json=body, headers=ann)
        assert (
            (first.status_code, first.json()) == (200, {"transfer": 1}) == (again.status_code, again.json())
        )
        assert (await http.post("/transfer", json=body)).status_code == 401
        assert (
            await http.post("/transfer", json=body, headers={"Authorization": "Bearer guess"})
        ).status_code == 401
        assert (
            await http.post("/transfer", json=body, headers={"Authorization": "Bearer t-eve"})
        ).status_code == 403
        assert (await http.post("/audit", headers={"Authorization": "Bearer t-eve"})).json() == "fine"
        assert (await http.post("/accounts", json={"page": 1}, headers=ann)).json() == {
            "names": ["a", "b"],
            "more": True,
        }
        assert (await http.post("/transfer", content=b"{", headers=ann)).status_code == 400
        assert (await http.post("/transfer", content=b'{"cents": NaN}', headers=ann)).status_code == 400
        assert (await http.post("/transfer", content=b" " * (2 << 20), headers=ann)).status_code == 413
        assert (await http.get("/transfer", headers=ann)).status_code == 405
    assert dump((await bank.capture())["api.sqlite"])["accounts"][("a",)]["cents"] == 70


async def test_programs_inside_a_sandbox_reach_the_service_and_only_through_its_rules() -> None:
    bank = service()
    pool = await Pool.open(warm=1)
    try:
        box = await pool.start(SandboxSpec())
        with await box.listen() as listener:
            port = listener.getsockname()[1]
            async with listening(app(bank, {"t-ann": ("ann", "agent")}), listener):
                done = await box.py(INSIDE.format(port=port, cents=30), timeout_s=10.0)
                assert done.output.decode().split() == ["200", '{"transfer":1}']
                refused = await box.py(INSIDE.format(port=port, cents=1000), timeout_s=10.0)
                assert refused.output.startswith(b"409")
        await box.close()
    finally:
        await pool.aclose()
    assert dump((await bank.capture())["api.sqlite"])["accounts"][("a",)]["cents"] == 70


def test_a_schema_that_the_rows_do_not_fit_is_refused() -> None:
    with pytest.raises(sqlite3.IntegrityError):
        image(SCHEMA, {"accounts": [("a", "ann", -1)]})
    assert Database(image(SCHEMA)).connection.execute("SELECT count(*) FROM accounts").fetchone() == (0,)


def _with_block(connection: sqlite3.Connection, caller: str) -> None:
    with connection:
        connection.execute("UPDATE t SET n = 9")
    raise Problem(409, "no")


def _script(connection: sqlite3.Connection, caller: str) -> None:
    connection.executescript(
        "UPDATE t SET n = 9; -- a; b\nINSERT INTO t VALUES (';', 3); UPDATE t SET n = 10"
    )
    raise Problem(409, "no")


def _commits(connection: sqlite3.Connection, caller: str) -> None:
    connection.execute("UPDATE t SET n = 9")
    connection.commit()
    connection.cursor().execute("UPDATE t SET n = 10")
    raise Problem(409, "no")


def _rolls_back(connection: sqlite3.Connection, caller: str) -> None:
    connection.execute("UPDATE t SET n = 9")
    connection.execute("INSERT OR ROLLBACK INTO t VALUES ('a', 2)")


def _goes_on_after_a_rollback(connection: sqlite3.Connection, caller: str) -> None:
    try:
        _rolls_back(connection, caller)
    except sqlite3.IntegrityError:
        connection.execute("UPDATE t SET n = 11")


def _swallows_a_rollback(connection: sqlite3.Connection, caller: str) -> None:
    with suppress(sqlite3.Error):
        _goes_on_after_a_rollback(connection, caller)


def _deferred(connection: sqlite3.Connection, caller: str) -> None:
    connection.execute("UPDATE t SET n = 9")
    connection.execute("INSERT INTO late VALUES ('nobody')")


@pytest.mark.parametrize(
    "run",
    [_with_block, _script, _commits, _rolls_back, _goes_on_after_a_rollback, _swallows_a_rollback, _deferred],
    ids=lambda run: run.__name__,
)
def test_an_operation_that_is_refused_leaves_nothing_whatever_it_did(
    run: Callable[[sqlite3.Connection, str], Json],
) -> None:
    before, table = _table(lambda connection, arguments, caller: run(connection, caller))
    assert ask(table, "do", q="")[0] == 409
    assert table._database.bytes == before
    assert ask(table, "do", q="")[0] == 409  # and the next one starts fresh


def _table(run: Callable[[sqlite3.Connection, Arguments, str], Json]) -> tuple[bytes, Service]:
    schema = """CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER);
    CREATE TABLE late (k TEXT REFERENCES t DEFERRABLE INITIALLY DEFERRED)"""
    service = Service(
        [Operation(tool=keyed(spec("do", "", ["q"])), run=run, writes=True)], image(schema, {"t": [("a", 1)]})
    )
    return service._database.bytes, service


def test_the_blocks_of_an_operation_keep_and_undo_their_own_part() -> None:
    def run(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
        with connection:
            connection.execute("INSERT INTO t VALUES ('b', 2)")
        with suppress(KeyError), connection:
            connection.execute("INSERT INTO t VALUES ('c', 3)")
            raise KeyError
        connection.executescript("INSERT INTO t VALUES ('d', 4); INSERT INTO t VALUES ('e', 5);")
        return connection.execute("SELECT group_concat(k) FROM t").fetchone()[0]

    _, table = _table(run)
    assert ask(table, "do", q="") == (200, "a,b,d,e")


def _of_the_caller(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
    try:
        return [list(row) for row in connection.execute(str(arguments["q"])).fetchall()]
    except sqlite3.Error as error:
        raise Problem(422, str(error)) from error


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "END",
        "ROLLBACK",
        "BEGIN",
        "RELEASE _agito",
        "ROLLBACK TO _agito",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = OFF",
        "SELECT * FROM pragma_user_version(3)",
        "ATTACH 'leak.db' AS x",
        "DETACH main",
        "VACUUM INTO 'leak.db'",
        "DROP TABLE _requests",
        "SELECT * FROM _requests",
        'INSERT INTO "_REQUESTS" (key) VALUES (1)',
        "ALTER TABLE _requests RENAME TO r",
        "CREATE TEMP TABLE t (k)",
        "CREATE TRIGGER x AFTER INSERT ON _requests BEGIN SELECT 1; END",
        "SELECT load_extension('x')",
        "UPDATE t SET n = 5; COMMIT",
        "SELECT 1; SELECT 2",
        "SELEC",
        "",
        "\0",
        "INSERT OR ROLLBACK INTO t VALUES ('a', 2)",
        "SELECT zeroblob(900000000)",
        "CREATE TABLE big AS SELECT randomblob(60000000) UNION ALL SELECT randomblob(60000000)",
    ],
)
def test_sql_of_the_caller_cannot_leave_its_transaction(
    sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, table = _table(_of_the_caller)
    status, _ = ask(table, "do", q=sql, idempotency_key="k")
    assert status in (409, 422) if sql else status == 200
    after = table._database.bytes
    assert dump(after) == dump(before) and list(tmp_path.iterdir()) == []
    assert ask(table, "do", q="UPDATE t SET n = 5 RETURNING n") == (200, [[5]])
    assert ask(table, "do", q="PRAGMA table_info(t)")[0] == 200


def test_what_json_lacks_is_shown_and_no_fault_of_the_environment() -> None:
    _, table = _table(_of_the_caller)
    assert ask(table, "do", q="SELECT x'00ff', 1e999, NULL", idempotency_key="k") == (
        200,
        [["00ff", None, None]],
    )
    assert ask(table, "do", q="SELECT x'00ff', 1e999, NULL", idempotency_key="k")[0] == 200


async def test_over_http_a_request_that_takes_long_holds_up_nobody_but_its_service() -> None:
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    _, table = _table(_of_the_caller)
    slow = await table.handle("do", {"q": endless}, caller="ann", role="agent", timeout_s=0.2)
    assert (slow.status, (await table.handle("do", {"q": "SELECT 1"}, caller="ann", role="agent")).body) == (
        504,
        [[1]],
    )


@pytest.mark.parametrize(
    "says", [b"POST /accounts HTTP/1.1\r\nHost: x\r\n", HALF_A_BODY], ids=["head", "body"]
)
async def test_a_client_that_never_ends_its_request_does_not_hold_up_the_end_of_the_service(
    says: bytes,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(10):
        async with listening(app(service(), {"t-ann": ("ann", "agent")}), listener):
            link = socket.create_connection(listener.getsockname(), timeout=5)
            link.send(says)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as http:
                answer = await http.post(
                    "/accounts", json={"page": 1}, headers={"Authorization": "Bearer t-ann"}
                )
                assert answer.status_code == 200
        link.close()


@pytest.mark.parametrize("num_bytes", [8 << 20, 1 << 10], ids=["more than a socket holds", "little"])
async def test_a_client_that_never_reads_its_answer_does_not_hold_up_the_end_of_the_service(
    num_bytes: int,
) -> None:
    async def tell(request: Request) -> Response:
        return Response(b"x" * num_bytes)

    application = Starlette(routes=[Route("/", tell)])
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(8):
        async with listening(application, listener):
            link = socket.create_connection(listener.getsockname(), timeout=5)
            link.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as http:
                assert len((await http.get("/")).content) == num_bytes, "others are answered"
        link.close()


async def test_a_client_that_hangs_up_in_its_request_ends_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with listening(app(service(), {"t-ann": ("ann", "agent")}), listener):
            for says in (b"POST /accounts HTTP/1.1\r\nHost: x\r\n", HALF_A_BODY):
                link = socket.create_connection(listener.getsockname(), timeout=5)
                link.send(says)
                await anyio.sleep(0.05)
                link.close()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as http:
                answer = await http.post(
                    "/accounts", json={"page": 1}, headers={"Authorization": "Bearer t-ann"}
                )
                assert answer.status_code == 200
    assert capfd.readouterr().err == "", "a request that was given up is no news"
