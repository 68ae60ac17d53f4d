"""The `web` environment: a shop, a forum and forms in a browser, judged by what the site holds at the end.

Chance level: without reading (`open_loop`), an agent must guess by position what to press and fill in: one of
three links, then one or two of four places, and first the right one of two buttons. Right in .04 of the
held-out tasks at levels 1 and 2, .002 above, .013 overall; declared as 0.03.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agito.envs.procedural import Place, ProceduralEnvironment
from agito.envs.web import agents
from agito.envs.web.instance import FAMILIES, HAS_TWIN, LEVELS, SHAPES, SPLITS, Instance, generate
from agito.envs.web.site import START, WebSite
from agito.protocols import Control, ScriptFactory
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Limits, Target, Task, Verdict
from agito.worlds.browser import TOOLS, Browser, Farm, Tabs, TextTabs
from agito.worlds.component import FaultProfile
from agito.worlds.world import SUBMIT, World

_CALL_SECONDS = 20.0  # a page takes a tenth of a second
_NATURAL = (
    "You use a web site through a browser; `look` shows the page as text, with a number before everything "
    "that you can act on. On this "
    "site everything is called by a word and a number, such as `kev52`; the task says the word alone. "
    "{ask} Leave fields and buttons alone "
    "that nothing is said of. Use `submit` with `done` when the site says done. Do it once, and send "
    "nothing else. A click can fail or "
    "time out: look before you try again."
)


class WebEnvironment(ProceduralEnvironment):
    """Procedural sites in Chromium; see `docs/environments/web.md`. `tabs` may be shared; their owner closes
    them."""

    name = ids_begin_with = "web"
    version = "2"
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.03
    isolation_tier = "unknown"

    def __init__(self, *, tabs: Tabs | None = None) -> None:
        self._farm = Farm() if tabs is None else None
        self._tabs: Tabs = tabs or self._farm or TextTabs()

    def draw(self, place: Place) -> tuple[Task, Target]:
        instance = generate(split=place.split, family=place.family, level=place.level, seed=place.seed)
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt={Dialect.COMPACT: instance.ask, Dialect.NATURAL: _NATURAL.format(ask=in_prose(instance))},
            tools=(*TOOLS, SUBMIT),
            limits=(limits := _limits(place.level)),
            natural_limits=replace(limits, tokens=704 + 96 * limits.turns, turn_tokens=48),
        )
        return task, Target(task_id=task.id, seed=place.seed, data={"expected": instance.expected})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        instance = generate(split=task.split, family=task.family, level=task.level, seed=target.seed)
        shape = SHAPES[task.level]
        faults = {"click": FaultProfile(error=shape.error, lost=shape.lost, says="error: busy")}
        return World(
            task,
            [Browser(self._tabs, lambda: WebSite(instance), START)],
            attempt,
            noise_seed=noise_seed,
            faults=faults,
        )

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Full marks when something was submitted and the site holds exactly the wanted record."""
        records = json.loads(sealed.files["site"])["records"]
        is_right = sealed.submitted is not None and records == [target.data["expected"]]
        reward = float(is_right)
        told = "" if sealed.submitted is not None else ", nothing submitted"
        evidence = f"on record {records}, wanted {target.data['expected']!r}{told}"
        return Verdict.scored(reward, evidence=evidence, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (agents.solver(task.prompt[Dialect.COMPACT], task.level),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return agents.negative_controls(
            task.prompt[Dialect.COMPACT], task.level, zlib.crc32(task.id.encode())
        )

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return agents.demonstrator(task.prompt[Dialect.COMPACT], task.level, skill=skill, seed=seed)

    async def aclose(self) -> None:
        if self._farm is not None:
            await self._farm.aclose()


def _limits(level: int) -> Limits:
    shape = SHAPES[level]
    return Limits(
        turns=shape.turns,
        calls=shape.turns,
        tokens=shape.tokens,
        turn_tokens=24,
        observation_bytes=1200,
        call_seconds=_CALL_SECONDS,
    )


class TextWebEnvironment(WebEnvironment):
    """The same tasks and pages, read without Chromium: a hundred times as fast, for training."""

    name = "web-text"

    def __init__(self) -> None:
        super().__init__(tabs=TextTabs())


def in_prose(instance: Instance) -> str:
    verb, target, *words = instance.ask.split()
    if instance.level >= HAS_TWIN:
        target = f"{target} that is by {words.pop(0)}, as its page says,"
    if verb == "buy":
        size = f", in size {words[1]}" if len(words) > 1 else ""
        coupon = " Use the coupon that stands under news." if instance.coupon else ""
        return (
            f"Buy the {target} count {words[0]}{size}, and pay.{coupon} Where it is sold out, look in "
            "another section."
        )
    if verb == "reply":
        if words[0] != "as":
            return f"Post the text `{words[0]}` to the thread {target}.".replace(",.", ".")
        where = f"in the thread {words[3]}" if "in" in words else "there"
        return f"Post to the thread {target} as text the number that {words[1]} posted last {where}."
    *values, last = words
    tick = f" Leave tick {last}." if last in ("on", "off") else ""
    values = values if tick else words
    listed = ", ".join(
        "the code that its first page shows" if each == "code" else f"`{each}`" for each in values
    )
    return f"Send the form {target} with {listed} for one, two and so on, and go.{tick}"
