"""`agito gateway CHECKPOINT`: a policy behind the APIs that agents speak; with `--record`, what it served,
token by token, and how it turned out, as clients say by `POST /v1/outcomes`.
"""

from __future__ import annotations

import secrets
import socket
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import typer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agito.cli.exit_codes import say, work
from agito.cli.progress import tell_loading
from agito.errors import AgitoError
from agito.gateway import Conversations, Gateway, Refused, Terms, listening
from agito.gateway.api_request import Ask
from agito.gateway.app import body_of
from agito.gateway.tree import Line
from agito.protocols import Agent, AgentSpec, Renderer
from agito.recipe import HarnessSection, Recipe
from agito.record import recording
from agito.record.answers import tag_of, tag_of_earlier
from agito.record.lock import lock, unlock
from agito.record.outcomes import answer_name, report_outcome
from agito.record.reading import read_trajectories
from agito.record.trajectories import write_trajectories
from agito.record.writable import require_folder
from agito.render.messages import Speaker, templated, with_tool_names
from agito.runtime import load_policy
from agito.types import Attempt, AttemptId, Task, TerminationReason, ToolSpec, Trajectory, Verdict

PHASE = recording.SERVED
_EVERY_S = 2.0  # between two writes
_MOST_LINES = 4096  # that are known at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it is served, and to whom. Port 0 is any free one. `judge_key`: of those who say how a recorded
    conversation turned out.
    """

    host: str
    port: int
    key: str
    record: Path | None = None
    judge_key: str = ""


@dataclass(slots=True)
class _Kept:
    """A conversation: where it was last answered, with which tools, and the names of its answers, each by its
    line and its place there.
    """

    last: Line
    tools: tuple[ToolSpec, ...] = ()
    made: Attempt | None = None  # as it was last written, where nothing has been answered since
    names: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A part as it is now. Of two of one part the one with the larger `number` is the later."""

    part: int
    number: int
    attempts: tuple[Attempt, ...]


class Recorder:
    """Conversations as trajectories, `served-00000.parquet` and so on. What comes in a moment before a power
    cut is lost, and no more.

    A task's messages are those up to the last answer; its tags are the names of its answers and their turns.
    `write` may run in another thread; the rest belongs to the event loop.
    """

    def __init__(self, folder: Path, conversations: Conversations, *, part_size: int = 256) -> None:
        """`part_size`: conversations in one file. Raises `OSError` for a folder that cannot be written, and
        `AgitoError` for another model's, or where another gateway records. `close` it.
        """
        recording.begin(folder, conversations.agent.spec.renderer)
        self._lock = lock(folder, otherwise="is recording here; choose another folder")
        self._folder, self.conversations = folder, conversations
        there = sorted(folder.glob(f"{PHASE}-*.parquet"))
        self._part_size = part_size
        self._part = int(there[-1].stem.removeprefix(f"{PHASE}-")) + 1 if there else 0
        self._first = 1 + max(
            (each.attempt.trajectory.attempt.group for path in there for each in read_trajectories(path)),
            default=-1,
        )
        self._kept: dict[int, _Kept] = {}  # by the number of its first line
        self._num_batches = self._num_earlier = 0  # `_num_earlier`: turns before something was forgotten
        self._is_written = True
        self._writing, self._newest = threading.Lock(), Batch(part=-1, number=-1, attempts=())
        conversations.on_answer = self.note

    def note(self, line: Line, ask: Ask, choice: int) -> None:
        kept = self._kept.setdefault(line.root.number, _Kept(line))
        kept.last, kept.tools, kept.made = line, ask.tools, None
        kept.names[answer_name(ask.name, choice)] = (line.number, len(line.turns()) - 1)
        self._is_written = False

    def new(self, *, ends_part: bool = False) -> Batch:
        """The whole part where anything is new in it, else nothing. A part that is full ends with it: what is
        answered from now on stands in the next. A conversation that goes on stands there again, as a whole.
        """
        attempts = () if self._is_written else tuple(map(self._made, self._kept.values()))
        batch = Batch(part=self._part, number=self._num_batches, attempts=attempts)
        self._num_batches, self._is_written = self._num_batches + 1, True
        if self._kept and (ends_part or len(self._kept) >= self._part_size):
            self._part, self._kept = self._part + 1, {}
        return batch

    def new_before_forgetting(self) -> Batch:
        """What is forgotten next is written for the last time. A conversation that goes on is another from
        here on, as it may lack some of its turns.
        """
        batch = self.new(ends_part=True)
        self._first += self.conversations.tree.num_opened
        self._num_earlier = self.conversations.num_booked
        return batch

    def write(self, batch: Batch) -> None:
        """The part in the place of what it was, unless a later batch of it has been written already."""
        with self._writing:
            is_late = batch.part == self._newest.part and batch.number < self._newest.number
            if is_late or not batch.attempts:
                return
            renderer = self.conversations.agent.spec.renderer
            write_trajectories(
                self._folder,
                PHASE,
                batch.part,
                batch.attempts,
                dialect=renderer.dialect,
                piece=partial(_piece, renderer),
            )
            self._newest = batch

    def close(self) -> None:
        """Another may record here. Idempotent."""
        if self._lock >= 0:
            unlock(self._lock)
            self._lock = -1

    def _made(self, kept: _Kept) -> Attempt:
        kept.made = kept.made or self._attempt(kept)
        return kept.made

    def _attempt(self, kept: _Kept) -> Attempt:
        root = kept.last.root
        segments, turns = self.conversations.record(root)
        renderer = self.conversations.agent.spec.renderer
        asked = next((message.text for message in root.messages if message.speaker is Speaker.USER), "")
        number = self._first + root.number
        places = self.conversations.places(root)
        turn_at = {(line, at): turn for turn, (line, at, _) in enumerate(places)}
        num_earlier = sum(booked < self._num_earlier for *_, booked in places)
        tags = [tag_of(name, turn_at[place]) for name, place in kept.names.items() if place in turn_at]
        task = Task(
            id=f"{PHASE}-{number}",
            env="gateway",
            split=PHASE,
            family=PHASE,
            level=0,
            prompt={renderer.dialect: asked},
            tools=kept.tools,
            messages=tuple(templated(with_tool_names(kept.last.messages))),
            tags=(*tags, *([tag_of_earlier(num_earlier)] if num_earlier else [])),
        )
        trajectory = Trajectory(
            attempt=AttemptId(group=number, slot=0),
            task=task,
            segments=segments,
            turns=turns,
            events=(),
            end=TerminationReason.ABANDONED,
        )
        return Attempt(trajectory=trajectory, verdict=Verdict.void("served, and not graded"))


async def _keep(conversations: Conversations, recorder: Recorder | None) -> None:
    """Writes what is new, and forgets what nobody has gone on with for long."""
    while True:
        await anyio.sleep(_EVERY_S)
        if recorder is not None:
            await anyio.to_thread.run_sync(recorder.write, recorder.new())
        await forget(conversations, recorder, _MOST_LINES)


async def forget(conversations: Conversations, recorder: Recorder | None, most: int) -> None:
    """All but so many lines, where there are twice as many; they are written before."""
    if not conversations.has_many(most):
        return
    if recorder is not None:
        await anyio.to_thread.run_sync(recorder.write, recorder.new_before_forgetting())
    await conversations.forget(most)


def outcomes_route(gateway: Gateway, folder: Path, *, key: str) -> Route:
    """Where it is said how a conversation turned out, at any time, by whoever has this key. An agent has the
    clients' key, and must not judge itself.
    """

    async def report(request: Request) -> Response:
        told = await body_of(request)
        try:
            await anyio.to_thread.run_sync(report_outcome, folder, told)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        return JSONResponse({"object": "outcome", "recorded": True})

    return Route("/v1/outcomes", gateway.guarded(report, key=key), methods=["POST"])


def _piece(renderer: Renderer, policy: str, token: int) -> str:
    return renderer.text([token])


def serve_policy(
    checkpoint: Path, place: Place, *, temperature: float, sampler: Literal["embedded", "vllm"]
) -> None:
    """Until Ctrl-C, or until the engine is gone."""
    _require_port(place)
    if place.record is not None:
        require_folder(place.record, "--record")
    found = load_policy.find(checkpoint)
    recipe = load_policy.recipe_of(found)
    tell_loading(recipe)
    recipe = recipe.model_copy(
        update={
            "compute": recipe.compute.model_copy(update={"ranks": 1, "sampler": sampler}),
            "policies": {},
            "agents": {},
            "harness": HarnessSection(),
        }
    )
    work(lambda: _serve(found, recipe, place, name=checkpoint.name or found.name, temperature=temperature))


async def _serve(checkpoint: Path, recipe: Recipe, place: Place, *, name: str, temperature: float) -> None:
    async with (
        load_policy.open_engine(checkpoint, recipe) as (engine, renderer),
        anyio.create_task_group() as tasks,
    ):
        agent = Agent(spec=AgentSpec(renderer=renderer, temperature=temperature), engine=engine)
        conversations = Conversations(agent, seed=secrets.randbits(48), terms=Terms(overrides=False))
        is_gone = anyio.Event()
        conversations.on_spent(is_gone)
        recorder = None if place.record is None else Recorder(place.record, conversations)
        tasks.start_soon(_keep, conversations, recorder)

        gateway = gateway_of(conversations, name, key=place.key)
        try:
            more = (
                [outcomes_route(gateway, place.record, key=place.judge_key)]
                if place.record is not None
                else []
            )
            async with listening(gateway.app(*more), host=place.host, port=place.port) as url:
                _welcome(url, name, place)
                await is_gone.wait()
                assert conversations.died is not None
                raise conversations.died
        finally:
            with anyio.CancelScope(shield=True):
                if recorder is not None:
                    recorder.write(recorder.new())
                    recorder.close()
                say(conversations.tree.meter.told())
                await conversations.aclose()


def gateway_of(conversations: Conversations, name: str, *, key: str) -> Gateway:
    """Of one policy, which answers whatever name a client has for its model, as llama.cpp's server does."""
    return Gateway(lambda _: conversations, [name], key=key, overrides=False)


def _require_port(place: Place) -> None:
    """Before a model is loaded. Raises `AgitoError`."""
    try:
        with socket.create_server((place.host, place.port)):
            return
    except OSError as error:
        raise AgitoError(
            f"{place.host}, port {place.port}: {error.strerror}; choose another by --port"
        ) from error


def _welcome(url: str, name: str, place: Place) -> None:
    typer.echo(f"export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={place.key}")
    typer.echo(f"export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={place.key}")
    recorded = f"; recorded in {place.record}" if place.record else ""
    typer.echo(f"# model: {name}, and any other name is served by it too{recorded}; Ctrl-C ends it")
    if place.record:
        typer.echo(f"# for POST {url}/v1/outcomes alone, and not for the agent: key {place.judge_key}")
