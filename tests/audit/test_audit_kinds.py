"""Every kind of planted fault is refused by the gate named after it, and unusual but sound environments are
accepted.
"""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agito.audit import Card, Depth, Mark, audit
from agito.audit.answer_rules import Shown, readings
from agito.audit.hidden_encodings import codes_of, decoded
from agito.audit.statistics import differs, earns_more
from agito.envs import load

PLANTED = Path(__file__).parents[2] / "benchmarks" / "planted"
QUICK = Depth(name="short", seconds=25.0, share=0.15)


async def card_of(place: str) -> Card:
    return await audit(lambda: load(f"{PLANTED / place}"), depth=QUICK)


def failed(card: Card) -> set[str]:
    return {gate.name for gate in card.failed}


PLANTS = (
    ("known/cellar.py:CodedInPrompt", "told"),
    ("known/cellar.py:UnknownIsRight", "constants"),
    ("known/cellar.py:QuarterTrained", "overlap"),
    ("known/cellar.py:SixLots", "duplicates"),
    ("known/cellar.py:TwoAndThree", "levels"),
    ("known/ledger.py:ResultFile", "forged"),
    ("known/ledger.py:Withdrawn", "void"),
    ("known/cellar.py:LostThings", "informed"),
    ("known/cellar.py:ColorOfTheName", "open loop"),
)
MORE_PLANTS = (
    ("known/ledger.py:History", "determinism"),
    ("known/cellar.py:OrderOfSets", "clock"),
    ("known/cellar.py:SlipsBySeed", "flake"),
    ("known/cellar.py:ToldByMistakes", "told"),
    ("known/cellar.py:ToldByTools", "told"),
    ("known/cellar.py:CodedInReplies", "told"),
    ("known/ledger.py:PlusThousand", "told"),
    ("known/cellar.py:Renumbered", "overlap"),
    ("known/cellar.py:HardestFirst", "levels"),
    ("known/ledger.py:LogOfSuccess", "forged"),
    ("known/ledger.py:BreaksOnLists", "void"),
    ("known/ledger.py:Shutters", "interference"),
    ("known/ledger.py:Resumed", "forged"),
    ("known/ledger.py:Compares", "told"),
    ("blind/bank.py:BankMemos", "forged"),
    ("blind/bank.py:BankLocks", "determinism"),
    ("blind/directory.py:DirectoryDebug", "told"),
    ("blind/filing.py:FilingRemoves", "void"),
    ("blind/house.py:HouseRestores", "forged"),
    ("blind/mailbox.py:MailboxReadAt", "clock"),
    ("blind/maze.py:MazeNumbers", "overlap"),
    ("blind/rota.py:RotaUnreadable", "void"),
    ("blind/services.py:ServicesTrace", "told"),
    ("blind/sheet.py:SheetCached", "told"),
    ("blind/todo.py:TodoDraft", "told"),
    ("blind/todo.py:TodoZip", "constants"),
)


@pytest.mark.parametrize(
    ("place", "gate"), [*PLANTS, *(pytest.param(*each, marks=pytest.mark.full) for each in MORE_PLANTS)]
)
async def test_a_planted_fault_is_refused_by_the_gate_that_names_it(place: str, gate: str) -> None:
    card = await card_of(place)
    assert gate in failed(card)
    (quality,) = (each for each in card.qualities if any(one.name == gate for one in each.gates))
    assert quality.mark is Mark.BAD
    assert quality.cases, "a person must be able to look at a case"


SOUND = ("Faulty", "Digits", "Form", "Thermostat", "Options")
MORE_SOUND = ("FewTasks", "SortedFile", "Meter", "Catalogue", "Arithmetic")


@pytest.mark.parametrize(
    "name", [*SOUND, *(pytest.param(each, marks=pytest.mark.full) for each in MORE_SOUND)]
)
async def test_a_sound_environment_of_an_odd_sort_is_not_refused(name: str) -> None:
    assert failed(await card_of(f"sound/small.py:{name}")) == set()


CLOCKED = """
import datetime, time
from time import time as now
from agito.testing import FakeEnvironment
from agito.types import Status, Verdict


class Base(FakeEnvironment):
    def counts(self): return True
    async def grade(self, sealed, key, grade_seed):
        reward = float(sealed.submitted == str(key.data["coin"]) and self.counts())
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)

class ByMinute(Base):
    def counts(self): return now() % 60 < 58 or time.localtime().tm_sec < 58

class ByYear(Base):
    def counts(self): return datetime.date.today().year < 2040

class ByHash(Base):
    def counts(self): return hash("coin") % 1000 == {hash}

class ByElapsed(Base):
    async def open(self, task, key, attempt, *, noise_seed):
        self.began = time.monotonic()
        return await super().open(task, key, attempt, noise_seed=noise_seed)
    def counts(self): return time.monotonic() - getattr(self, "began", time.monotonic()) < 120
"""


@pytest.mark.parametrize(
    "name",
    ["ByMinute", "ByHash", *(pytest.param(each, marks=pytest.mark.full) for each in ("ByYear", "ByElapsed"))],
)
async def test_a_verdict_that_hangs_on_the_clock_or_the_process_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "clocked.py").write_text(CLOCKED.replace("{hash}", str(hash("coin") % 1000)))
    card = await audit(lambda: load(f"{tmp_path / 'clocked.py'}:{name}"), depth=QUICK)
    assert failed(card) == {"clock"}


RAISING = """
from agito.testing import FakeEnvironment


class Rare(FakeEnvironment):
    async def grade(self, sealed, key, grade_seed):
        if key.seed % 12 == 0:
            raise KeyError("a rare bug")
        return await super().grade(sealed, key, grade_seed)


class TwoSplits(FakeEnvironment):
    splits = ("train", "heldout")


class Quiet(FakeEnvironment):
    def negative_controls(self, task):
        return {name: script for name, script in super().negative_controls(task).items() if name != "open_loop"}


class Informed(FakeEnvironment):
    def solutions(self, task, key):
        from agito.testing.fakes import submit
        return (lambda: submit(key.data["coin"]),)
    def demonstrator(self, task, key, *, skill, seed):
        from agito.testing.fakes import submit
        import random
        return lambda: submit(key.data["coin"] if random.Random(seed).random() < skill - 0.01 * task.level else -1)


class Declared(Informed):
    solutions_need_target = "the coin is found by feel, which no script has"
"""  # noqa: E501


@pytest.fixture
def raising(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "raising.py").write_text(RAISING)
    yield tmp_path / "raising.py"


async def test_what_the_environment_raises_comes_first_with_its_text_and_its_line(raising: Path) -> None:
    card = await audit(lambda: load(f"{raising}:Rare"), depth=QUICK)
    assert "broken" in failed(card)
    assert "KeyError: 'a rare bug' (raising.py, line 8, in grade)" in card.broke[0].what
    assert "0 of 0" not in card.to_json().decode()


async def test_an_environment_without_a_structural_split_is_told_so(raising: Path) -> None:
    card = await audit(lambda: load(f"{raising}:TwoSplits"), depth=QUICK)
    (gate,) = (gate for gate in card.failed if gate.name == "splits")
    assert "lacks structural" in gate.found


async def test_an_environment_must_ship_an_open_loop_control(raising: Path) -> None:
    card = await audit(lambda: load(f"{raising}:Quiet"), depth=QUICK)
    assert failed(card) == {"open loop"}


async def test_a_solution_that_needs_the_key_is_refused_unless_its_author_says_why(raising: Path) -> None:
    assert "informed" in failed(await audit(lambda: load(f"{raising}:Informed"), depth=QUICK))
    declared = await audit(lambda: load(f"{raising}:Declared"), depth=QUICK)
    assert "informed" not in failed(declared)
    assert "by feel" in next(gate.found for gate in declared.gates if gate.name == "informed")


@pytest.mark.full
async def test_the_short_and_the_full_audit_have_the_same_gates() -> None:
    place = f"{PLANTED / 'sound/small.py'}:Meter"
    short = await audit(lambda: load(place), depth=QUICK)
    full = await audit(lambda: load(place), depth=Depth(name="full", seconds=25.0, share=0.3))
    assert [gate.name for gate in short.gates] == [gate.name for gate in full.gates]


WORDS = ("amber", "coral", "ebony", "frost", "green", "hazel", "ivory", "khaki")


def shown(say: str, *, num: int = 96) -> list[Shown]:
    """Texts in which `say` puts the answer, in every code, by the code's name."""
    rng = random.Random(5)
    found: list[Shown] = []
    for at in range(num):
        answer = rng.choice(WORDS)
        noise = " ".join(rng.choice(WORDS) for _ in range(5))
        found.append(
            Shown(
                text=f"{noise}; mark {codes_of(answer).get(say, answer)} and {rng.randrange(100)}",
                answer=answer,
                task=str(at),
            )
        )
    return found


@pytest.mark.parametrize("code", sorted(codes_of("coral")))
def test_an_answer_is_read_in_every_code(code: str) -> None:
    assert readings(shown(code), 0.2)


def test_a_text_that_names_answers_by_chance_tells_nothing() -> None:
    rng = random.Random(9)
    texts = [
        Shown(text=" ".join(rng.sample(WORDS, 8)), answer=rng.choice(WORDS), task=str(at))
        for at in range(200)
    ]
    assert readings(texts, 0.2) == []


def test_a_code_that_nobody_thought_of_is_learned_by_heart() -> None:
    rng = random.Random(3)
    secret = {word: f"q{at * 37 % 91}" for at, word in enumerate(WORDS)}
    answers = [rng.choice(WORDS) for _ in range(120)]
    texts = [
        Shown(text=f"batch {secret[answer]} of {rng.randrange(1000)}", answer=answer, task=str(at))
        for at, answer in enumerate(answers)
    ]
    assert [each.how.split(",")[0] for each in readings(texts, 0.2)] == ["by heart"]


def test_what_stands_in_a_coded_text_is_read() -> None:
    for raw in (b'{"page": 2, "hit": "K481"}', b"order 77, K481 first"):
        for word in (
            base64.b64encode(raw),
            base64.urlsafe_b64encode(raw),
            raw.hex().encode(),
            base64.b32encode(raw),
            base64.b64encode(zlib.compress(raw)),
        ):
            assert "K481" in decoded(f"next {word.decode()} end")
    assert decoded("a plain text with longer words, abracadabra") == "" or "K481" not in decoded(
        "abracadabra"
    )


def test_luck_and_difference_are_judged_by_exact_tails() -> None:
    assert earns_more(20, 100, 0.1, 1e-2)
    assert not earns_more(12, 100, 0.1, 1e-2)
    assert differs(25, 100, 0, 100)
    assert not differs(44, 100, 41, 100)
