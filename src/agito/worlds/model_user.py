"""A user simulated through any server that speaks the OpenAI chat protocol. It never sees the key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

import anyio
import httpx

from agito.errors import SandboxFailure
from agito.types import Call, Exactness, Json, ToolSpec
from agito.worlds.component import Answer, overran, text_of
from agito.worlds.users import ASK


class ModelUser:
    """A user played by a language model. `brief` is its system prompt: who it is, what it wants, how it
    behaves.

    A snapshot holds the whole conversation. What the model says next is up to the server, so a fork repeats
    only if the server is deterministic. Raises `SandboxFailure` if the server cannot be reached or returns an
    error: an attempt without its user is void.
    """

    exactness = Exactness.EXACT

    def __init__(
        self,
        brief: str,
        client: httpx.AsyncClient,
        *,
        model: str,
        seed: int = 0,
        max_tokens: int = 200,
        name: str = "user",
        tool: ToolSpec = ASK,
    ) -> None:
        self.name, self.tools = name, (tool,)
        self._brief, self._client, self._model, self._seed, self._max_tokens = (
            brief,
            client,
            model,
            seed,
            max_tokens,
        )
        self._talk: list[tuple[str, str]] = []  # (what it was told, what it replied)

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        (parameter,) = cast("dict[str, Json]", self.tools[0].parameters["properties"])
        said = text_of(call, parameter)
        body = {
            "model": self._model,
            "messages": self._messages(said),
            "temperature": 0,
            "seed": self._seed,
            "max_tokens": self._max_tokens,
        }
        began, response = time.monotonic(), None
        try:
            with anyio.move_on_after(timeout_s):  # limits the whole reply: a server may send it byte by byte
                response = await self._client.post("chat/completions", json=body, timeout=None)
            if response is None:
                return overran(began)
            response.raise_for_status()
            reply = response.json()["choices"][0]["message"]["content"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise SandboxFailure(
                f"{self.name}: the server behind the simulated user failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(reply, str):
            raise SandboxFailure(
                f"{self.name}: the server behind the simulated user sent {type(reply).__name__} where text "
                "belongs"
            )
        self._talk.append((said, reply))
        return Answer(text=reply)

    def _messages(self, said: str) -> list[dict[str, str]]:
        """To the model, the policy is the `user` of the protocol."""
        turns = [
            ({"role": "user", "content": asked}, {"role": "assistant", "content": reply})
            for asked, reply in self._talk
        ]
        return [
            {"role": "system", "content": self._brief},
            *(each for turn in turns for each in turn),
            {"role": "user", "content": said},
        ]

    async def snapshot(self) -> object:
        return tuple(self._talk)

    async def fork(self, token: object) -> ModelUser:
        child = ModelUser(
            self._brief,
            self._client,
            model=self._model,
            seed=self._seed,
            max_tokens=self._max_tokens,
            name=self.name,
            tool=self.tools[0],
        )
        child._talk = list(cast("tuple[tuple[str, str], ...]", token))
        return child

    async def digest(self) -> str:
        return repr(self._talk)

    async def capture(self) -> Mapping[str, bytes]:
        return {
            self.name: "".join(f"> {said}\n{reply}\n" for said, reply in self._talk).encode(
                "utf-8", "replace"
            )
        }

    async def close(self) -> None:
        """Does nothing: the client belongs to its maker."""
