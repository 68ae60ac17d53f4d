"""The gateway's HTTP side: who may ask, what is too large or no JSON, streams, clients that hang up, errors
as the SDKs expect them.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar, cast

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from agito.errors import WorkerDied
from agito.gateway import anthropic, chat, responses
from agito.gateway.api_request import NEVER, Answer, Ask, Refused
from agito.gateway.conversations import Conversations, offered
from agito.gateway.fields import Fields
from agito.protocols import Renderer
from agito.render.messages import Said
from agito.types import Dialect, Json

Result = TypeVar("Result")

MOST_BYTES = 1 << 23  # of one request
_BODY_S = 30.0  # for sending it
_SESSION_HEADERS = ("x-session-id", "x-agent-id", "x-claude-code-session-id")
MOST_SESSION = 80  # characters of its name that are kept
_MARKS = ("<tool_call>", "<think>", "</think>")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Stream(Protocol):
    """Events of one streamed answer in some API."""

    def more(self, index: int, said: Said) -> Iterator[bytes]: ...
    def end(self, index: int, answer: Answer) -> Iterator[bytes]: ...
    def close(self, answers: Sequence[Answer]) -> Iterator[bytes]: ...


class Api(Protocol):
    """One way of asking: how its requests are read and its answers written. A module is one."""

    def read(self, body: Fields, *, overrides: bool) -> Ask: ...
    def whole(
        self, ask: Ask, answers: Sequence[Answer], renderer: Renderer, *, name: str, created: int
    ) -> Json: ...
    def Stream(self, ask: Ask, renderer: Renderer, *, name: str, created: int) -> Stream: ...  # noqa: N802


class Gateway:
    """Answers for models by name. `choose` gives the conversations of a model, or raises `Refused`."""

    def __init__(
        self, choose: Callable[[str], Conversations], names: Sequence[str], *, key: str, overrides: bool
    ) -> None:
        self._choose, self._names, self._key, self._overrides = choose, names, key, overrides
        self._began = int(time.time())

    def app(self, *more: BaseRoute) -> Starlette:
        """`more`: what else is served, which has to ask `admit` itself."""
        routes = [
            Route("/v1/chat/completions", self._asked(cast("Api", chat), "chatcmpl-"), methods=["POST"]),
            Route("/v1/responses", self._asked(cast("Api", responses), "resp_"), methods=["POST"]),
            Route("/v1/messages", self._asked(cast("Api", anthropic), "msg_"), methods=["POST"]),
            Route("/v1/messages/count_tokens", self.guarded(self._count), methods=["POST"]),
            Route("/v1/models", self.guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self.guarded(self._model), methods=["GET"]),
            *more,
        ]
        return Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})

    def admit(self, request: Request, key: str = "") -> None:
        """Raises `Refused` unless the request brings the key: the clients', where no other is named."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = request.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
        if not hmac.compare_digest(given.encode(), (key or self._key).encode()):
            raise Refused(401, "this key is not valid here", code="invalid_api_key")

    def guarded(
        self, handle: Callable[[Request], Awaitable[Response]], *, key: str = ""
    ) -> Callable[[Request], Awaitable[Response]]:
        """The same behind a key, the clients' where no other is named; a refusal is an answer."""

        async def inner(request: Request) -> Response:
            try:
                self.admit(request, key)
                return await handle(request)
            except Refused as error:
                return refusal(error, is_anthropic=request.url.path.startswith("/v1/messages"))
            except WorkerDied:
                return refusal(Refused(503, "the engine is gone", code="engine_gone"))
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:  # the boundary: a client gets an answer, and its attempt goes on
                return refusal(
                    Refused(500, f"{type(error).__name__}: {error}", code="server_error", may_retry=True)
                )

        return inner

    def _asked(self, api: Api, prefix: str) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            ask = api.read(Fields(await body_of(request)), overrides=self._overrides)
            session = next(
                (request.headers[name] for name in _SESSION_HEADERS if name in request.headers), ""
            )
            name, created = prefix + secrets.token_hex(12), int(time.time())
            ask = replace(ask, session=session[:MOST_SESSION], name=name)
            offered(ask.tools, ask.choice)
            conversations = self._choose(ask.model)
            renderer = conversations.agent.spec.renderer
            if ask.streams:
                return _Streamed(
                    conversations,
                    ask,
                    api.Stream(ask, renderer, name=name, created=created),
                    path=request.url.path,
                )
            answers = await while_connected(request, lambda: _all(conversations, ask))
            return JSONResponse(api.whole(ask, answers, renderer, name=name, created=created))

        return self.guarded(handle)

    async def _count(self, request: Request) -> Response:
        ask = anthropic.read_prompt(Fields(await body_of(request)))
        return JSONResponse({"input_tokens": self._choose(ask.model).count(ask)})

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self._names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._choose(name)
        return JSONResponse(self._described(name))

    def _described(self, name: str) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": self._began,
            "owned_by": "agito",
            "type": "model",
            "display_name": name,
        }


def refusal(error: Refused, *, is_anthropic: bool = False) -> Response:
    kind = _KINDS.get(error.status, "api_error")
    kind = "insufficient_quota" if error.code == "insufficient_quota" and not is_anthropic else kind
    headers = {} if error.may_retry else {"x-should-retry": "false"}
    told: Json = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    body: Json = (
        {"type": "error", "error": {"type": kind, "message": error.message}}
        if is_anthropic
        else {"error": told}
    )
    return JSONResponse(body, status_code=error.status, headers=headers)


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    why = f"{request.method} {request.url.path}: " + (
        "there is no such address here" if status == 404 else "another method is asked for"
    )
    return refusal(
        Refused(status, why, code="unknown_url"), is_anthropic=request.url.path.startswith("/v1/messages")
    )


async def body_of(request: Request) -> Json:
    """Raises `Refused` for what is too large, too slow or no JSON."""
    body = bytearray()
    try:
        with anyio.fail_after(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise Refused(413, f"a request has at most {MOST_BYTES} bytes", code="request_too_large")
    except TimeoutError:
        raise Refused(408, f"the request did not come whole within {_BODY_S:g} s") from None
    try:
        return cast("Json", json.loads(bytes(body), parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise Refused(
            400, f"the body is no JSON: {error or type(error).__name__}", code="invalid_json"
        ) from None


def _refuse_constant(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON")


async def while_connected(request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` gives. It is cancelled when the client hangs up, which raises `ClientDisconnect`."""
    done: list[Result] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            done.append(await work())
        except Exception as error:  # bare, not in a group
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not done:
        raise ClientDisconnect
    return done[0]


async def _all(
    conversations: Conversations, ask: Ask, on_said: Callable[[int, Said], None] | None = None
) -> list[Answer]:
    """Every choice, side by side."""
    if ask.num_choices == 1:
        return [await conversations.answer(ask, 0, on_said and partial(on_said, 0))]
    answers: dict[int, Answer] = {}
    errors: list[Exception] = []

    async def one(choice: int) -> None:
        try:
            answers[choice] = await conversations.answer(ask, choice, on_said and partial(on_said, choice))
        except Exception as error:  # bare, not in a group
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for choice in range(ask.num_choices):
            tasks.start_soon(one, choice)
    if errors:
        raise errors[0]
    return [answers[choice] for choice in sorted(answers)]


class _Streamed(Response):
    """One answer as it comes. Its first event is waited for, so that a refusal has its own status. A slow
    reader finds the newest.
    """

    def __init__(self, conversations: Conversations, ask: Ask, stream: Stream, *, path: str) -> None:
        super().__init__(media_type="text/event-stream")
        self._conversations, self._ask, self._stream = conversations, ask, stream
        self._is_anthropic = path.startswith("/v1/messages")
        self._holds_back = bool(ask.tools) and conversations.agent.spec.renderer.dialect is Dialect.COMPACT
        self._said: dict[int, Said] = {}
        self._answers: list[Answer] | None = None
        self._error: Exception | None = None
        self._stirred = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            tasks.start_soon(self._work)
            await self._send(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _work(self) -> None:
        try:
            self._answers = await _all(self._conversations, self._ask, self._show)
        except Exception as error:  # told to the client, at the head of the stream or in it
            self._error = error
        self._stirred.set()

    def _show(self, index: int, said: Said) -> None:
        self._said[index] = said
        self._stirred.set()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False
        while True:
            await self._stirred.wait()
            self._stirred = anyio.Event()
            if self._error is not None and not is_begun:
                response = self._refusal()
                return await response(scope, receive, send)
            if not is_begun:
                headers = [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                ]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                is_begun = True
            if self._error is not None:
                body = bytes(self._refusal().body)
                return await _part(
                    send,
                    (b"event: error\n" if self._is_anthropic else b"") + b"data: " + body + b"\n\n",
                    is_last=True,
                )
            if self._answers is not None:
                ends = [
                    part
                    for number, answer in enumerate(self._answers)
                    for part in self._stream.end(number, answer)
                ]
                return await _part(send, b"".join([*ends, *self._stream.close(self._answers)]), is_last=True)
            shown = {
                number: settled(said, self._ask, holds_back=self._holds_back)
                for number, said in self._said.items()
            }
            await _part(
                send,
                b"".join(part for number, said in shown.items() for part in self._stream.more(number, said)),
            )

    def _refusal(self) -> Response:
        error = self._error
        if not isinstance(error, Refused):
            error = Refused(
                503,
                "the engine is gone" if isinstance(error, WorkerDied) else "this answer could not be made",
                code="engine_gone",
            )
        return refusal(error, is_anthropic=self._is_anthropic)


async def _part(send: Send, data: bytes, *, is_last: bool = False) -> None:
    if data or is_last:
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})


def settled(said: Said, ask: Ask, *, holds_back: bool) -> Said:
    """What will stand in the answer whatever is sampled next."""
    if holds_back:
        return Said(text="")
    marks = (*_MARKS, *ask.stop)
    calls = bool(ask.tools) and ask.choice != NEVER
    text, thinking = (_before(part, marks, strips=calls) for part in (said.text, said.thinking))
    return Said(text=text.partition(_MARKS[0])[0].rstrip() if calls else text, thinking=thinking)


def _before(text: str, marks: Sequence[str], *, strips: bool) -> str:
    """Without what may turn out to be the beginning of a mark, or half a character."""
    text = text.rstrip("\ufffd")
    longest = max(
        (size for mark in marks for size in range(1, len(mark)) if text.endswith(mark[:size])), default=0
    )
    text = text[: len(text) - longest]
    return text.rstrip() if strips else text
