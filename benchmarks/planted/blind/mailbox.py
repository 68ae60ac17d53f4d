"""A mailbox: which code did someone last name about a matter? Three environments, each with one planted
fault.

Chance level: a code is three letters and three digits, which nobody guesses; declared as 0.01.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agito.errors import InvalidArguments
from agito.protocols import Control, Script, ScriptFactory
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    EpisodeArtifacts,
    Limits,
    Status,
    Target,
    Task,
    ToolSpec,
    Verdict,
)
from agito.worlds.component import Answer, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

PEOPLE = ("ana", "ben", "carla", "dov", "elif", "femi", "greta", "hugo", "ines", "jun", "kofi", "lena")
TOPICS = {
    "train": ("rent", "roof", "boiler", "garden", "van", "fence"),
    "heldout": ("rent", "roof", "boiler", "garden", "van", "fence"),
    "structural": ("visa", "flight", "hotel", "badge", "lunch", "keys"),
}
LIST = spec(
    "list", "Five mails of the mailbox, the oldest first: id, sender, topic. Pages count from 1.", ["page"]
)
OPEN = spec("open", "The text of one mail.", ["id"])
LIMITS = Limits(turns=24, calls=24, tokens=6000, turn_tokens=64)
PAGE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    id: str
    sender: str
    topic: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    sender: str
    topic: str
    mails: tuple[Mail, ...]
    code: str


class Mailbox(Machine):
    name, tools = "mailbox", (LIST, OPEN)

    def __init__(self, case: Case) -> None:
        super().__init__(list[str]())
        self.case = case

    def step(self, call: Call) -> Answer:
        assert isinstance(self.state, list)
        said = text_of(call, "page" if call.tool == "list" else "id").strip()
        text = self.page(said) if call.tool == "list" else self.body(said)
        self.state.append(f"{call.tool} {said}")
        return Answer(text=text)

    def page(self, said: str) -> str:
        mails, last = self.case.mails, self.last_page
        if said not in [str(each + 1) for each in range(last)]:
            raise InvalidArguments(f"list: pages are 1 to {last}")
        start = (int(said) - 1) * PAGE
        rows = [f"{mail.id} {mail.sender} {mail.topic}" for mail in mails[start : start + PAGE]]
        return "\n".join([f"page {said} of {last}", *rows])

    @property
    def last_page(self) -> int:
        return -(-len(self.case.mails) // PAGE)

    def body(self, said: str) -> str:
        found = next((mail for mail in self.case.mails if mail.id == said), None)
        if found is None:
            raise InvalidArguments("open: no mail has this id")
        return found.text


class MailboxWorld:
    """Sound: the subclasses plant the faults."""

    name, version, chance_level = "mailbox", "1", 0.01
    families: tuple[str, ...] = ("last-word",)
    levels, splits = (1, 2, 3), ("train", "heldout", "structural")
    tools: tuple[ToolSpec, ...] = (LIST, OPEN, SUBMIT)

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        level = level or self.levels[index % len(self.levels)]
        if (
            split not in self.splits
            or (family or self.families[0]) not in self.families
            or level not in self.levels
        ):
            raise ValueError(
                f"split={split!r} family={family!r} level={level}: there are {self.splits}, "
                f"{self.families}, {self.levels}"
            )
        case = self.draw(split, seed, index, level)
        mark = hashlib.blake2b(f"{split}/{seed}/{index}".encode(), digest_size=6).hexdigest()
        task = Task(
            id=f"{self.name}-{split}-{level}-{mark}",
            env=self.name,
            split=split,
            family=self.families[0],
            level=level,
            prompt={Dialect.COMPACT: self.compact(case), Dialect.NATURAL: self.natural(case)},
            tools=self.tools,
            limits=LIMITS,
        )
        data = {"split": split, "seed": seed, "index": index, "level": level, "wanted": self.wanted(case)}
        return task, Target(task_id=task.id, seed=zlib.crc32(mark.encode()), data=data)

    def case_of(self, target: Target) -> Case:
        seed, index, level = (int(str(target.data[each])) for each in ("seed", "index", "level"))
        return self.draw(str(target.data["split"]), seed, index, level)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [self.machine(self.case_of(target))], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        reward = self.reward(sealed, self.case_of(target))
        return Verdict(
            status=Status.SCORED, reward=reward, scores={"success": float(reward == 1)}, grade_seed=grade_seed
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self.solve(task, 1.0, 0),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        rng = random.Random(zlib.crc32(task.id.encode()))
        return {
            "nothing": nothing,
            "claim": lambda: only(self.claim(task)),
            "open_loop": lambda: self.blind(task, rng),
        }

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: self.solve(task, skill, seed)

    async def aclose(self) -> None:
        return

    def draw(self, split: str, seed: int, index: int, level: int) -> Case:
        """In structural tasks the person's mails only point to another mail, which holds the code."""
        rng = random.Random(f"mailbox/{split}/{seed}/{index}/{level}")
        num_mails, num_hits = {1: (5, 1), 2: (11, 2), 3: (19, 4)}[level]
        sender, topic = rng.choice(PEOPLE), rng.choice(TOPICS[split])
        hits = sorted(rng.sample(range(num_mails), num_hits))
        ids = rng.sample([f"{a}{b}{n}" for a in "bcdfgh" for b in "aeiou" for n in range(10, 100)], num_mails)
        mails, code = list[Mail](), ""
        for at in range(num_mails):
            who, about = (sender, topic) if at in hits else self._others(sender, topic, split, rng)
            made = "".join(rng.choices("KLMNPRSTVX", k=3)) + "-" + str(rng.randrange(100, 1000))
            code = made if at in hits else code
            mails.append(Mail(id=ids[at], sender=who, topic=about, text=f"the code is {made}"))
        if split == "structural":
            mails += [
                Mail(id=f"z{mail.id}", sender="archive", topic="copy", text=mail.text)
                for mail in mails[:: rng.choice((1, -1))]
            ]
            mails = [
                m
                if m.sender == "archive"
                else Mail(id=m.id, sender=m.sender, topic=m.topic, text=f"see z{m.id}")
                for m in mails
            ]
        return Case(sender=sender, topic=topic, mails=tuple(mails), code=code)

    def _others(self, sender: str, topic: str, split: str, rng: random.Random) -> tuple[str, str]:
        """Another person on the same matter, the same person on another, or neither."""
        who = rng.choice([each for each in PEOPLE if each != sender])
        about = rng.choice([each for each in TOPICS[split] if each != topic])
        return rng.choice(((who, topic), (sender, about), (who, about)))

    def compact(self, case: Case) -> str:
        return f"{case.sender} on {case.topic}"

    def natural(self, case: Case) -> str:
        return (
            f"Which code did {case.sender} name last in the mails about `{case.topic}`? List the mailbox, "
            "open what you need, and submit "
            "the code. A mail may only say in which other mail the code stands."
        )

    def wanted(self, case: Case) -> str:
        return case.code

    def machine(self, case: Case) -> Machine:
        return Mailbox(case)

    def reward(self, sealed: EpisodeArtifacts, case: Case) -> float:
        return float(sealed.submitted == case.code)

    def solve(self, task: Task, skill: float, seed: int) -> Script:
        """A slip stops the listing early, opens the wrong mail, or miscopies the code."""
        rng = random.Random(seed)
        slips = [rng.random() < 0.7 * (1 - skill) for _ in range(LIMITS.calls)]
        sender, _, topic = task.prompt[Dialect.COMPACT].split()
        found, page, last = list[str](), 0, 1
        while page < last and (not page or not slips.pop()):
            page += 1
            event = yield call("list", page=str(page))
            head, *rows = event.text.splitlines()
            last = int(head.split()[3])
            found += [row.split()[0] for row in rows if row.split()[1:3] == [sender, topic]]
        if not found:
            yield self.claim(task)
            return
        event = yield call("open", id=found[0] if slips.pop() else found[-1])
        if event.text.startswith("see "):
            event = yield call("open", id=event.text.split()[1])
        yield call("submit", answer=event.text.split()[-1][:: -1 if slips.pop() else 1])

    def claim(self, task: Task) -> Call:
        return call("submit", answer="KLM-100")

    def blind(self, task: Task, rng: random.Random) -> Script:
        """Ids cannot be guessed, so nothing can be opened."""
        yield call("list", page="1")
        yield call(
            "submit", answer="".join(rng.choices("KLMNPRSTVX", k=3)) + "-" + str(rng.randrange(100, 1000))
        )


class MailboxCursor(MailboxWorld):
    """The cursor under each page is base64 of the whole query, including the code."""

    KIND = "encoded"
    name = "mailbox-cursor"

    def machine(self, case: Case) -> Machine:
        return CursorMailbox(case)


class CursorMailbox(Mailbox):
    def page(self, said: str) -> str:
        rows = super().page(said)
        query = {"page": int(said) + 1, "from": self.case.sender, "hit": self.case.code}
        return f"{rows}\ncursor {base64.urlsafe_b64encode(json.dumps(query).encode()).decode()}"


class MailboxPages(MailboxWorld):
    """Only the first three pages can be listed, and the last word is sometimes on the fourth: its id cannot
    be found.
    """

    KIND = "unreachable"
    name = "mailbox-pages"

    def machine(self, case: Case) -> Machine:
        return ThreePages(case)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self.look_and_tell(task, self.case_of(target)),)

    def look_and_tell(self, task: Task, case: Case) -> Script:
        """Opens the mail that it knows to be right."""
        event = yield call("list", page="1")
        for page in range(2, int(event.text.splitlines()[0].split()[3]) + 1):
            yield call("list", page=str(page))
        event = yield call(
            "open",
            id=[mail.id for mail in case.mails if (mail.sender, mail.topic) == (case.sender, case.topic)][-1],
        )
        if event.text.startswith("see "):
            event = yield call("open", id=event.text.split()[1])
        yield call("submit", answer=event.text.split()[-1])


class ThreePages(Mailbox):
    @property
    def last_page(self) -> int:
        return min(super().last_page, 3)


class MailboxReadAt(MailboxWorld):
    """An opened mail from another account is stamped with the time of reading."""

    KIND = "clock"
    name = "mailbox-read-at"

    def machine(self, case: Case) -> Machine:
        return StampedMailbox(case)


class StampedMailbox(Mailbox):
    def body(self, said: str) -> str:
        text = super().body(said)
        mine = any(mail.id == said and mail.sender == self.case.sender for mail in self.case.mails)
        return text if mine else f"[read {datetime.now(UTC):%H:%M:%S.%f}] {text}"


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=arguments, raw=" ".join([tool, *arguments.values()]))


def nothing() -> Script:
    yield from ()


def only(last: Call) -> Script:
    yield last
