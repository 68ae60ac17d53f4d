"""Own prompts with an own reward function: what is read, what a reward function may ask for and say, and
tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agito.envs import load
from agito.envs.prompts import PromptsEnvironment
from agito.envs.prompts.data import read_splits
from agito.envs.prompts.reward import BadReward, RewardFunction
from agito.envs.prompts.saved_prompts import named
from agito.errors import BadEnvironment, NotFound
from agito.plugins import PromptSet, absolute, label, shown
from agito.protocols import Environment, Finite, Unscripted
from agito.rollout import EpisodeDriver
from agito.scheduling.curriculum import draw
from agito.training.loop import stride
from agito.types import EpisodeArtifacts, Status, Verdict

Rows = Sequence[Mapping[str, Any]]
SUMS = [{"prompt": f"What is {at} + {at}?", "answer": str(2 * at), "hint": at} for at in range(40)]
EXACT = "def reward(completion, answer):\n    return completion == answer\n"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., PromptsEnvironment]:
    def make(
        rows: Rows = SUMS, source: str = EXACT, options: str = "", tools: str = ""
    ) -> PromptsEnvironment:
        (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (tmp_path / "mine.py").write_text(source + tools)
        environment = load(f"{tmp_path}/tasks.jsonl,reward={tmp_path}/mine.py:reward{options}")
        assert isinstance(environment, PromptsEnvironment)
        return environment

    return make


async def judged(environment: Environment, text: str | None, index: int = 0, split: str = "train") -> Verdict:
    """As training judges it: a grader that fails is asked again beside a reference."""
    task, target = environment.task(split=split, index=index, seed=0)
    sealed = EpisodeArtifacts(task_id=task.id, submitted=text, files={}, digest="")
    return await EpisodeDriver(environment, noise_seed=0).grade(sealed, task, target)


# --- what is read


def test_a_prompt_set_is_an_environment_of_the_standard_without_scripts(
    made: Callable[..., Environment],
) -> None:
    environment = made()
    assert (
        isinstance(environment, Environment)
        and isinstance(environment, Unscripted)
        and isinstance(environment, Finite)
    )
    task, target = environment.task(split="train", index=0, seed=1)
    assert environment.task(split="train", index=0, seed=1) == (task, target)
    shown_to_policy = repr(task)
    assert str(target.data["columns"]) not in shown_to_policy and "hint" not in shown_to_policy


def test_jsonl_parquet_arrow_json_and_folders_give_the_same_rows(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(SUMS)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    (tmp_path / "a.json").write_text(json.dumps(SUMS))
    pq.write_table(table, tmp_path / "a.parquet")
    saved = tmp_path / "saved" / "train"  # as `save_to_disk` leaves a DatasetDict
    saved.mkdir(parents=True)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (saved / "dataset_info.json").write_text("{}")
    with (
        pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    pq.write_table(table.slice(0, 20), hub / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(20), hub / "train-00001-of-00002.parquet")
    places = ["a.jsonl", "a.json", "a.parquet", "saved", "hub"]
    ids = [
        {row.id for rows in read_splits(tmp_path / place, None, 0.1)[0].values() for row in rows}
        for place in places
    ]
    assert len(ids[0]) == 40 and all(each == ids[0] for each in ids)


def test_splits_are_disjoint_stable_and_a_folders_own_where_it_has_them(tmp_path: Path) -> None:
    rows = [*SUMS, {**SUMS[0], "prompt": SUMS[0]["prompt"].upper() + "  ", "answer": "x"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, again = (read_splits(tmp_path / "a.jsonl", None, 0.1)[0] for _ in range(2))
    assert first == again and {split: len(each) for split, each in first.items()}.keys() == {
        "train",
        "heldout",
        "validation",
    }
    keys = [{row.key for row in each} for each in first.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2], (
        "equal prompts stay together"
    )
    for name, part in (("train", SUMS[:20]), ("test", SUMS[20:30]), ("validation", SUMS[30:])):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    own = read_splits(tmp_path / "own", None, 0.1)[0]
    assert {split: len(each) for split, each in own.items()} == {"train": 20, "heldout": 10, "validation": 10}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ('{"text": "a"}\n', "no column `prompt`"),
        ('{"prompt": ""}\n', "the prompt is empty"),
        ('{"prompt": [{"role": "user"}]}\n', "content of a message"),
        (
            '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
            "last message is the assistant's",
        ),
        ('{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}\n', "only text"),
        ("[1, 2]\n", "not an object"),
        ('{"prompt": "a"}\n{"prompt": "b"}\n', "too few distinct prompts"),
        ("", "it is empty; write one object with a prompt in each line"),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BadEnvironment, match=said):
        read_splits(tmp_path / "a.jsonl", None, 0.1)[0]


def test_odd_values_of_a_row_are_what_json_and_a_tokenizer_can_say(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "half \\ud800 {at}", "score": NaN, "big": 1e999}}' for at in range(6)]
    (tmp_path / "a.jsonl").write_text("\r\n".join(lines), encoding="utf-8-sig")
    rows = [row for each in read_splits(tmp_path / "a.jsonl", None, 0.2)[0].values() for row in each]
    assert len(rows) == 6 and all(row.text.isascii() for row in rows)
    assert all(row.columns == {"score": None, "big": None} for row in rows)


def test_messages_keep_their_roles_and_other_conventions_are_read(
    made: Callable[..., PromptsEnvironment],
) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    rows = [
        {"question": "a?", "answer": "1"},
        {"question": "b?", "answer": "2"},
        {"question": chat, "answer": "3"},
    ] * 5
    environment = made([{**row, "number": at} for at, row in enumerate(rows)])
    tasks = [environment.task(split=split, index=0, seed=0)[0] for split in environment.splits]
    assert {len(task.messages) for task in tasks} == {1, 2}
    long = next(task for task in tasks if len(task.messages) == 2)
    assert [message["role"] for message in long.messages] == ["system", "user"] and long.messages[1][
        "content"
    ] == "Hi"


def test_each_round_through_a_finite_set_is_another_order_of_all_of_it(
    made: Callable[..., PromptsEnvironment],
) -> None:
    environment = made()
    size = environment.num_tasks("train")
    rounds = [
        [environment.task(split="train", index=epoch * size + at, seed=3)[0].id for at in range(size)]
        for epoch in range(3)
    ]
    assert all(len(set(each)) == size for each in rounds) and set(rounds[0]) == set(rounds[1])
    assert rounds[0] != rounds[1] != rounds[2]
    held = [
        environment.task(split="heldout", index=at, seed=seed)[0].id
        for seed in (0, 9)
        for at in range(environment.num_tasks("heldout"))
    ]
    assert held[: len(held) // 2] == held[len(held) // 2 :], (
        "evaluations are on the same prompts, whatever the seed"
    )


def test_the_steps_of_training_go_through_all_prompts_before_any_comes_again(
    made: Callable[..., PromptsEnvironment],
) -> None:
    environment, groups = made(), 8
    size = environment.num_tasks("train")
    assert size == 32
    seen: list[str] = []
    for step in range(8):
        numbers = draw([1.0], groups, seed="0", first=step * stride(groups, 1, is_finite=True))
        seen += [environment.task(split="train", index=number, seed=0)[0].id for number in numbers]
    assert (
        len(set(seen[:size])) == size
        and sorted(seen[:size]) == sorted(seen[size:])
        and seen[:size] != seen[size:]
    )


# --- its name


def test_a_name_holds_from_every_folder_and_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "tasks.jsonl,turns=4,reward=mine.py:reward,tools=mine.py:add+search"
    found = absolute(name)
    assert PromptSet.parse(found) == PromptSet.parse(absolute(found)) and str(tmp_path) in found
    assert PromptSet.parse(shown(found)) == PromptSet.parse(name) and label(found) == "tasks"
    assert PromptSet.parse("shell") is None and PromptSet.parse("path.py:Class") is None


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl,reward=m.py:f,turn=3",
        "a.jsonl,reward=m.py:f,turns=x",
        "a,reward=m.py:f,holdout=0.9",
        ",reward=m.py:f",
    ],
)
def test_a_name_that_says_what_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(BadEnvironment):
        PromptSet.parse(name)


@pytest.mark.parametrize(
    ("reward", "kind"),
    [("gone.py:f", NotFound), ("mine.py:gone", NotFound), ("mine.py:broken", BadEnvironment)],
)
def test_a_reward_that_is_not_there_is_said_before_anything_runs(
    tmp_path: Path, reward: str, kind: type[Exception]
) -> None:
    (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in SUMS))
    (tmp_path / "mine.py").write_text("def broken(completions):\n    return 0\n")
    with pytest.raises(kind):
        load(f"{tmp_path}/tasks.jsonl,reward={tmp_path}/{reward}")


# --- what a reward function is given, and what it says


async def test_a_reward_function_is_given_what_it_asks_for_by_name(
    made: Callable[..., PromptsEnvironment],
) -> None:
    source = """
async def reward(completion, prompt, messages, answer, hint=None, other=3):
    assert prompt.startswith("What is") and messages[-1] == {"role": "assistant", "content": completion}
    assert str(2 * hint) == answer and other == 3
    messages.clear()
    return {"right": completion == answer, "short": 1.0 if len(completion) < 3 else 0.0}

reward.weights = {"right": 3, "short": 1}
"""
    environment = made(source=source)
    verdict = await judged(environment, "999")
    assert verdict.reward == 0.0 and verdict.scores == {"right": 0.0, "short": 0.0, "success": 0.0}
    verdict = await judged(environment, "no")
    assert verdict.reward == 0.25, "the weighted mean of its components"


def test_a_parameter_that_there_is_nothing_for_is_told_with_what_there_is(
    made: Callable[..., PromptsEnvironment],
) -> None:
    with pytest.raises(BadEnvironment, match=r"no column `anwser`.*did you mean answer"):
        made(source="def reward(completion, anwser):\n    return 0\n")


async def test_a_mapping_may_say_its_own_reward_and_what_a_success_is(
    made: Callable[..., PromptsEnvironment],
) -> None:
    environment = made(
        source="def reward(completion):\n    return {'reward': 0.5, 'success': True, 'letters': "
        "len(completion) / 9}\n"
    )
    verdict = await judged(environment, "abc")
    assert (verdict.reward, verdict.scores) == (0.5, {"letters": pytest.approx(1 / 3), "success": 1.0})


@pytest.mark.parametrize(
    "returned", ["float('nan')", "None", "'1'", "2", "-0.1", "{'a': None}", "{}", "[1]", "float('inf')"]
)
async def test_what_is_no_reward_makes_the_attempt_void_and_says_why(
    made: Callable[..., PromptsEnvironment], returned: str
) -> None:
    verdict = await judged(made(source=f"def reward(completion):\n    return {returned}\n"), "x")
    assert (
        verdict.status is Status.VOID
        and "BadReward: reward" in verdict.evidence
        and "mine.py:reward" in verdict.evidence
    )


async def test_a_declared_range_is_the_environments(made: Callable[..., PromptsEnvironment]) -> None:
    environment = made(
        source="def reward(completion):\n    return -1 if completion == 'x' else 1\n\nreward.range = (-1, "
        "1)\n"
    )
    assert environment.reward_range == (-1.0, 1.0)
    assert [(await judged(environment, text)).reward for text in ("x", "y", None)] == [-1.0, 1.0, -1.0]
    assert (await judged(environment, "y")).scores["success"] == 1.0


async def test_a_completion_that_breaks_the_reward_function_is_scored_and_never_a_way_out(
    made: Callable[..., PromptsEnvironment],
) -> None:
    environment = made(source="def reward(completion, answer):\n    return int(completion) == int(answer)\n")
    verdict = await judged(environment, "about twelve")
    assert (verdict.status, verdict.reward) == (
        Status.SCORED,
        0.0,
    ) and "never on a reference" in verdict.evidence


@pytest.mark.parametrize("line", ["raise KeyError('x')", "undefined_name", "raise SystemExit(0)"])
async def test_a_reward_function_that_fails_on_everything_is_void_never_zero(
    made: Callable[..., PromptsEnvironment], line: str
) -> None:
    verdict = await judged(made(source=f"def reward(completion, answer):\n    {line}\n"), "x")
    assert verdict.status is Status.VOID


async def test_an_endpoint_that_fails_is_void_even_where_the_reference_was_judged(
    made: Callable[..., PromptsEnvironment],
) -> None:
    source = """
from agito.errors import EndpointFailed

def reward(completion, answer):
    if completion != answer:
        raise EndpointFailed("the judge is away")
    return 1
"""
    verdict = await judged(made(source=source), "x")
    assert verdict.status is Status.VOID and "the judge is away" in verdict.evidence


async def test_ending_without_an_answer_earns_the_least(made: Callable[..., PromptsEnvironment]) -> None:
    verdict = await judged(made(source="def reward(completion):\n    return 1\n"), None)
    assert (verdict.status, verdict.reward) == (Status.SCORED, 0.0)


def test_numbers_of_other_libraries_are_numbers() -> None:
    import numpy as np

    async def ask() -> float:
        return (
            await RewardFunction(lambda completion: np.float32(0.5), "m.py:f")({"completion": "x"})
        ).reward

    assert anyio.run(ask) == 0.5
    with pytest.raises(BadReward, match="outside 0 to 1"):
        anyio.run(RewardFunction(lambda: 7, "m.py:f"), {})


# --- from Python


def own_reward(completion: str, answer: str) -> float:
    return float(completion == answer)


async def test_lists_and_functions_of_a_session_become_files_by_which_another_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = named(SUMS, own_reward, tokens=64)
    assert name == named(SUMS, own_reward, tokens=64)
    environment = load(name)
    assert (await judged(environment, "no")).reward == 0.0
    assert environment.task(split="train", index=0, seed=0)[0].limits.turn_tokens == 64

    def inner(completion: str) -> float:
        return 0.5

    assert (await judged(load(named(["a", "b", "c", "d"], inner)), "x")).reward == 0.5
    with pytest.raises(BadEnvironment, match="made by def"):
        named(SUMS, lambda completion: 1.0)
