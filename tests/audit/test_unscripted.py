"""What an audit finds in prompts with a reward function: planted holes, and honest sets that pass."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from agito.audit import SHORT, Card, Mark, Quality, audit
from agito.audit.card import Gate, clipped
from agito.cli.audit import print_card
from agito.envs import load
from agito.errors import BadEnvironment, NotAdmitted
from agito.training.admission import admit
from agito.view import write_card

EXACT = "def reward(completion, answer):\n    return completion == answer\n"
LOOSE = "def reward(completion, answer):\n    return answer in completion\n"


def sums(number: int = 80) -> list[dict[str, str]]:
    rng = random.Random(1)
    pairs = rng.sample([(a, b) for a in range(10, 40) for b in range(10, 40)], number)
    return [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))

    def write(rows: Sequence[Mapping[str, object]], source: str, options: str = "") -> str:
        (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (tmp_path / "mine.py").write_text(source)
        return f"{tmp_path}/tasks.jsonl,reward={tmp_path}/mine.py:reward{options}"

    return write


async def failed(name: str) -> set[str]:
    card = await audit(lambda: load(name), depth=SHORT)
    return {gate.name for gate in card.failed}


async def test_an_honest_set_passes_and_its_card_says_what_could_not_be_measured(
    name: Callable[..., str],
) -> None:
    card = await audit(lambda: load(name(sums(), EXACT)), depth=SHORT)
    assert not card.failed
    unknown = [quality.name for quality in card.qualities if quality.says.startswith("not measured")]
    assert {"difficulty gradient", "feedback richness", "scalability of rollout generation"} <= set(unknown)
    assert len(card.qualities) == 8
    told = card.measure("resistance to cheating", "earned by the answer's column")
    assert told.value == 1.0


HINTED = [{**row, "prompt": f"{row['prompt']} (Answer: {row['answer']})"} for row in sums()]
LABELLED = [{**row, "prompt": f"{row['prompt']}\nexpected = {row['answer']}"} for row in sums()]
QUOTED = [{**row, "prompt": json.dumps({"q": row["prompt"], "answer": row["answer"]})} for row in sums()]
FEW = [{**row, "prompt": f"{row['prompt']} The answer is {row['answer']}."} for row in sums()[:6]] + sums()[
    6:
]
CHOICE = [
    {"prompt": f"Which is the right answer: {', '.join(words)}? ({at})", "answer": words[at % 3]}
    for at, words in enumerate([["cat", "dog", "cow"], ["red", "blue", "green"], ["one", "two", "six"]] * 20)
]
SALT = [
    {
        "prompt": f"The solution is {at} g/l, and {at + 50} ml of it are there. How strong is the solution?",
        "answer": str(at),
    }
    for at in range(10, 60)
]
YES = [{"prompt": f"Is {at} even?", "answer": "yes" if at % 10 else "no"} for at in range(60)]
FAIR = [{"prompt": f"Is {at} even?", "answer": "yes" if at % 2 else "no"} for at in range(60)]
FOUND = [
    {"prompt": f"Ann is {at}, and lives in house {at + 100}. How old is Ann?", "answer": str(at)}
    for at in range(10, 60)
]
ONLY = """
import re

def reward(completion, answer):
    return re.findall(r"[0-9]+", completion) == [answer]
"""
TWITCHY = """
import random

def reward(completion, answer):
    return random.random()
"""
COUNTS = """
seen = []

def reward(completion, answer):
    seen.append(completion)
    return float(seen.count(completion) == 1 and completion == answer)
"""
LENGTH = "def reward(completion):\n    return min(len(completion) / 10, 1)\n"
HALF = "def reward(completion, answer):\n    return 0.9 if completion else 0.0\n"
CRASHES = "def reward(completion, answer):\n    return int(completion) == int(answer)\n"
BROKEN = "def reward(completion, answer):\n    return undefined\n"
SIGNED = "def reward(completion, answer):\n"
RANGE = "reward.range = (-1, 1)\n"
BOXED = """
def reward(completion, answer):
    return 0.2 + 0.8 * (completion == chr(92) + "boxed{" + answer + "}")
"""


@pytest.mark.parametrize(
    ("rows", "source", "gates"),
    [
        (HINTED, EXACT, {"leaks"}),
        (LABELLED, EXACT, {"leaks"}),
        (QUOTED, EXACT, {"leaks"}),
        (FEW, EXACT, {"leaks"}),
        (CHOICE, EXACT, set[str]()),
        (SALT, ONLY, set[str]()),
        (YES, EXACT, {"constant answers"}),
        (FAIR, EXACT, set[str]()),
        (FAIR, LOOSE, {"several answers"}),
        (FOUND, LOOSE, {"echo"}),
        (FOUND, ONLY, set[str]()),
        (sums(), TWITCHY, {"determinism"}),
        (sums(), COUNTS, {"determinism"}),
        (sums(), LENGTH, {"echo"}),
        (sums(), HALF, {"constant answers", "echo"}),
        (sums(), BROKEN, {"reward function"}),
        (sums(), "def reward(completion, answer):\n    return 0.49\n", {"difference"}),
        (sums(), "def reward(completion, **rest):\n    return 0.01\n", {"difference"}),
        (sums(), "def reward(messages, answer):\n    return len(answer) / 10\n", {"difference"}),
        (sums(), SIGNED + "    return 0\n" + RANGE, {"difference"}),
        (sums(), SIGNED + "    return 1 if completion == answer else 0\n" + RANGE, set[str]()),
        (sums(), BOXED, set[str]()),
        (sums(), SIGNED + "    return 1 if completion == answer else 0.55\n", {"echo"}),
    ],
    ids=[
        "the answer in brackets",
        "the answer after a label",
        "the answer in JSON",
        "the answer in one prompt of thirteen",
        "a choice after the word answer",
        "a solution that is a liquid",
        "nine in ten are yes",
        "half are yes",
        "half are yes, anywhere in the text",
        "the answer stands in the text, anywhere",
        "the answer stands in the text, alone",
        "a random reward",
        "a reward that remembers",
        "length alone",
        "anything at all",
        "a reward that raises",
        "a constant below half",
        "a constant near nothing",
        "the same for every answer of a prompt",
        "a constant in a range of its own",
        "right or nothing in a range of its own",
        "right in one form alone",
        "a little more than half for anything",
    ],
)
async def test_holes_are_found_and_honest_sets_are_not_accused(
    name: Callable[..., str], rows: Sequence[Mapping[str, object]], source: str, gates: set[str]
) -> None:
    found = await failed(name(rows, source))
    assert gates <= found if gates else not found


async def test_a_guess_that_is_worth_much_by_nature_is_declared(name: Callable[..., str]) -> None:
    assert await failed(name(YES, EXACT, ",chance=0.9")) == set()


async def test_held_out_prompts_that_are_training_prompts_are_found(
    tmp_path: Path, name: Callable[..., str]
) -> None:
    rows = sums()
    apart = [{**row, "prompt": row["prompt"].upper()} for row in rows[:20]]
    (tmp_path / "held.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in apart))
    assert "overlap" in await failed(name(rows, EXACT, f",heldout={tmp_path}/held.jsonl"))


async def test_a_reward_that_fails_on_what_it_cannot_read_is_a_doubt_and_no_refusal(
    name: Callable[..., str],
) -> None:
    card = await audit(lambda: load(name(sums(), CRASHES)), depth=SHORT)
    assert not card.failed and card.qualities[0].mark is Mark.DOUBT
    assert any("invalid literal" in case.what for case in card.qualities[0].cases)


async def test_training_refuses_a_set_that_fails_and_remembers_the_card_of_one_that_passes(
    name: Callable[..., str],
) -> None:
    with pytest.raises(NotAdmitted, match="echo"):
        await admit(name(FOUND, LOOSE))
    honest = name(FOUND, ONLY)
    first, again = [await admit(honest) for _ in range(2)]
    assert first.digest == again.digest and (first.source.value, again.source.value) == ("audited", "own")


async def test_the_digest_follows_rows_options_and_the_source_of_the_functions(
    name: Callable[..., str],
) -> None:
    digests = [
        (await admit(name(rows, source, options), anyway=True)).digest
        for rows, source, options in (
            (sums(), EXACT, ""),
            (sums(), EXACT + "\nTWO = 2\n", ""),
            (sums()[1:], EXACT, ""),
            (sums(), EXACT, ",turns=2"),
            (sums(), EXACT, ""),
        )
    ]
    assert len(set(digests)) == 4 and digests[0] == digests[-1]


async def test_what_stands_somewhere_in_its_prompt_is_counted_and_told_from_what_is_announced_there(
    name: Callable[..., str],
) -> None:
    card = await audit(lambda: load(name(FOUND, ONLY)), depth=SHORT)
    gate = next(gate for gate in card.gates if gate.name == "leaks")
    num = int(card.measure("state diversity", "train prompts").value or 0)
    assert gate.holds and gate.found.startswith(f"0 of {num} prompts say their own answer right after words")
    assert f"anywhere in the text it stands in {num}," in gate.found
    contain = card.measure("resistance to cheating", "prompts that contain their answer")
    assert (contain.value, contain.num) == (1.0, num)


@pytest.mark.parametrize("pays", [0.49, 0.3])
async def test_an_answer_without_thought_that_pays_close_to_half_is_said_with_its_thresholds(
    name: Callable[..., str], pays: float
) -> None:
    source = f"def reward(completion, answer):\n    return 1 if completion == answer else {pays}\n"
    card = await audit(lambda: load(name(FOUND, source)), depth=SHORT)
    doubtful = {gate.name: gate for gate in card.gates if gate.doubt}
    assert not card.failed and {"constant answers", "echo"} <= set(doubtful)
    told = f"earns {pays:.2f} of full marks, {pays:.2f} at the least; more than 0.52 is refused"
    assert told in doubtful["echo"].found
    assert doubtful["echo"].doubt == "worth a look from 0.25 on"
    quality = next(each for each in card.qualities if each.name == "resistance to cheating")
    said = re.search(r"earn up to (0\.\d\d) of full marks", quality.says)
    assert quality.mark is Mark.DOUBT and said and float(said[1]) >= pays


async def test_a_declared_guess_is_no_doubt_and_a_reward_that_never_rises_is_one(
    name: Callable[..., str],
) -> None:
    fair = await audit(lambda: load(name(FAIR, EXACT, ",chance=0.6")), depth=SHORT)
    assert not [gate.name for gate in fair.gates if gate.doubt or not gate.holds]
    nothing = "def reward(completion, answer):\n    return 0\n"
    card = await audit(lambda: load(name(sums(), nothing)), depth=SHORT)
    (difference,) = [gate for gate in card.gates if gate.doubt]
    assert difference.name == "difference" and "the lowest reward" in difference.found


def test_a_reward_that_is_not_shown_the_completion_is_refused(name: Callable[..., str]) -> None:
    with pytest.raises(BadEnvironment, match="neither `completion` nor `messages`"):
        load(name(sums(), "def reward(answer):\n    return len(answer)\n"))


async def test_training_says_what_is_worth_a_look_in_a_set_that_it_admits(name: Callable[..., str]) -> None:
    source = "def reward(completion, answer):\n    return 1 if completion == answer else 0.4\n"
    admitted = await admit(name(sums(), source))
    assert any("saying the prompt itself earns 0.40" in doubt for doubt in admitted.doubts)


async def test_rows_that_equal_others_are_left_out_counted_and_said(name: Callable[..., str]) -> None:
    rows = sums(60)
    card = await audit(lambda: load(name([*rows, *rows, rows[0]], EXACT)), depth=SHORT)
    quality = next(each for each in card.qualities if each.name == "state diversity")
    assert card.measure("state diversity", "equal rows left out").value == 61
    assert "61 rows equal others in every column, and are left out" in quality.says
    assert quality.mark is Mark.DOUBT
    other = await audit(lambda: load(name([*rows, {**rows[0], "answer": "0"}], EXACT)), depth=SHORT)
    assert other.measure("state diversity", "equal rows left out").value == 0


def test_a_card_of_prompts_has_no_gaps_and_cuts_what_is_long_between_words(name: Callable[..., str]) -> None:
    gate = Gate(
        name="echo", value=0.3, limit=0.5, holds=True, found="it pays", remedy="look", doubt="from .25"
    )
    empty = Quality(name="realism", mark=Mark.DOUBT, says="not measured", measures=(), gates=(gate,))
    card = Card(
        environment="e",
        version="1",
        digest="0" * 32,
        chance_level=0.0,
        depth="short",
        seconds=1.0,
        episodes=1,
        seed=0,
        machine={},
        qualities=(empty, empty),
    )
    console = Console(width=100, force_terminal=False)
    with console.capture() as caught:
        print_card(card, console)
    said = caught.get()
    assert "\n\n\n" not in said and "from .25: look" in said and "✓" not in said
    assert clipped("no such word as thisone", 20) == "no such word as …"
    page = write_card(json.loads(card.to_json()), Path(name([], "").partition("/tasks")[0]) / "card.html")
    assert "from .25: look." in page.read_text()
