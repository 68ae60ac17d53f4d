"""Ten lines in: prompts and a reward function from the command line and from Python, killed and gone on
with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ROOT, HereIn, agito_in, environment, sets
from tests.render.test_chat import CHATML, ModelTokenizer, write

from agito.envs import load
from agito.envs.prompts import PromptsEnvironment
from agito.models import Decoder, DecoderConfig, save

SMALL = (
    "model.dtype=float32",
    "model.lora.rank=4",
    "compute.ranks=1",
    "compute.max_num_seqs=8",
    "compute.context=512",
    "rl.steps=2",
    "rl.groups=2",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=6",
    "eval.baseline_tasks=2",
)
# Half of all texts are right, by chance: a network from random weights learns nothing and earns differently.
REWARD = """
import hashlib, os
from pathlib import Path

asked = []


def reward(prompt, completion, kind):
    asked.append(completion)
    if len(asked) > {after} and Path("{home}/die").exists():
        os._exit(9)
    digest = hashlib.sha256((prompt + completion).encode()).digest()[0]
    return {{"odd": digest % 2, "seen": kind == "a"}}


reward.weights = {{"odd": 1, "seen": 0}}
"""


def small_model(folder: Path) -> Path:
    """A chat model from random weights, with three hundred tokens."""
    write(folder, "byte level", CHATML)
    config = DecoderConfig(
        vocab_size=ModelTokenizer.read(folder).largest_id + 1,
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_position=512,
        family="llama",
        qk_norm=False,
    )
    save(Decoder(config, seed=1), folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    small_model(tmp_path / "model")
    rows = [{"prompt": f"find kev {at}", "kind": "a"} for at in range(40)]
    (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def given(name: str) -> tuple[str, ...]:
    prompts = ("--prompts", "tasks.jsonl,tokens=8", "--reward", "mine.py:reward", "--model", "model")
    return ("train", *prompts, *sets(*SMALL), "--name", name)


def test_prompts_train_from_a_model_as_it_is_and_components_and_pass_at_k_are_told(
    home: Path, here_in: HereIn
) -> None:
    here = here_in(home)
    (home / "mine.py").write_text(REWARD.format(after=0, home=home))
    assert f"loading the model {home}/model" in here(*given("whole")).stderr
    assert f"loading the model {home}/model" in here("eval", "runs/whole", "--n", "1").stderr
    whole = json.loads((home / "runs/whole/summary.json").read_text())
    assert whole["num_eval_tasks"] == 4 and set(whole["baselines"]) == {"nothing"}
    lines = [json.loads(line) for line in (home / "runs/whole/metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if line["phase"] == "rl"]
    assert [line["score/seen_mean"] for line in learned] == [1.0, 1.0] and "score/odd_mean" in learned[0]
    found = json.loads(here("eval", "runs/whole", "--attempts", "3", "--json").stdout)["policy"]
    assert (found["num"], found["num_tasks"]) == (12, 4)
    assert found["pass^3"][0] <= found["pass@1"][0] <= found["pass@3"][0]


@pytest.mark.full
def test_a_run_on_prompts_that_was_killed_goes_on_to_the_same_end_and_its_best_checkpoint_is_found(
    home: Path, here_in: HereIn
) -> None:
    agito, here = agito_in(home), here_in(home)
    (home / "mine.py").write_text(REWARD.format(after=18, home=home))
    here(*given("whole"))
    (home / "die").touch()
    killed = agito(*given("killed"), expect=None)
    assert killed.returncode == 9 or killed.returncode < 0
    (home / "die").unlink()
    here("train", "--resume", "runs/killed")
    whole, resumed = (
        json.loads((home / "runs" / name / "summary.json").read_text()) for name in ("whole", "killed")
    )
    for key in ("success_before", "success_after", "num_eval_tasks", "sampled_tokens"):
        assert whole[key] == resumed[key], key
    chosen = json.loads(here("eval", "runs/whole", "--choose", "--split", "validation", "--json").stdout)
    assert list(chosen["checkpoints"]) == ["step-0", "step-1", "final"] and chosen["split"] == "validation"
    best = max(each[0] for each in chosen["checkpoints"].values())
    assert chosen["checkpoints"][Path(chosen["best"]).name][0] == best


def test_conversations_are_imitated_before_and_speak_for_themselves(home: Path, here_in: HereIn) -> None:
    (home / "mine.py").write_text(
        "def reward(completion):\n    return 'kev' in completion and len(completion) < 6\n"
    )
    talk = [
        {"messages": [{"role": "user", "content": f"find kev {at}"}, {"role": "assistant", "content": "kev"}]}
        for at in range(32)
    ]
    (home / "talk.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in talk))
    here_in(home)(
        "train",
        "--prompts",
        "tasks.jsonl,tokens=8,chance=0.99",
        "--reward",
        "mine.py:reward",
        "--model",
        "model",
        "--sft",
        "talk.jsonl",
        *sets(
            *SMALL,
            "rl.steps=0",
            "sft.epochs=12",
            "sft.batch=4",
            "trainer.sft.lr=0.02",
            "trainer.sft.adam_lr=0.02",
            "model.adapter=none",
        ),
        "--admit-anyway",
    )
    summary = json.loads((home / "runs/tasks/summary.json").read_text())
    assert summary["success_before"] > 0.5, "a network from random weights says what it was shown"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompts", "tasks.jsonl"), "--reward"),
        (("--reward", "mine.py:reward"), "--prompts"),
        (("--prompts", "tasks.jsonl", "--reward", "mine.py:reward"), "model.path"),
        (("--prompts", "gone.jsonl", "--reward", "mine.py:reward", "--model", "model"), "no such file"),
        (
            ("--prompts", "tasks.jsonl", "--reward", "mine.py:rewrd", "--model", "model"),
            "did you mean reward",
        ),
        (
            (
                "--prompts",
                "tasks.jsonl",
                "--reward",
                "mine.py:reward",
                "--model",
                "model",
                "--set",
                "sft.demos=64",
            ),
            "sft.demos",
        ),
        (
            (
                "--prompts",
                "tasks.jsonl",
                "--reward",
                "mine.py:reward",
                "--model",
                "model",
                "--sft",
                "gone.jsonl",
            ),
            "gone.jsonl",
        ),
    ],
)
def test_what_is_missing_is_said_at_once(
    home: Path, here_in: HereIn, words: tuple[str, ...], said: str
) -> None:
    (home / "mine.py").write_text(REWARD.format(after=0, home=home))
    done = here_in(home)("train", *words, expect=None)
    assert done.returncode in (2, 3, 4) and said in done.stderr, done.stderr
    assert not (home / "runs").exists()


# --- the guide

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def guide(home: Path) -> str:
    """The files of the guide, with tasks of its kind; returns its commands."""
    blocks = BLOCK.findall((ROOT / "docs" / "howto" / "own-prompts.md").read_text())
    for code in (code for language, code in blocks if language == "python"):
        (home / code.splitlines()[0].removeprefix("# ")).write_text(code)
    (example,) = [json.loads(code) for language, code in blocks if language == "json"]
    rows = [
        {
            "prompt": example["prompt"].replace(example["answer"], str(age)),
            "answer": str(age),
            "tests": "assert f() == 1",
        }
        for age in range(10, 60)
    ]
    (home / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (home / "models").mkdir()
    (home / "model").rename(home / "models" / "smollm2-135m")
    return next(code for language, code in blocks if language == "bash")


def test_every_function_of_the_guide_is_a_reward_or_a_tool_and_its_prompts_are_fit_to_train_on(
    home: Path, here_in: HereIn
) -> None:
    audited = guide(home).splitlines()[0].split()[1:]
    assert "fit to train on" in here_in(home)(*audited, "--short").stdout
    for name in ("parts.py", "graded.py"):
        assert isinstance(load(f"{home}/tasks.jsonl,reward={home}/{name}:reward"), PromptsEnvironment)
    tools = load(f"{home}/tasks.jsonl,reward={home}/my_reward.py:reward,tools={home}/my_tools.py:add")
    assert tools.task(split="train", index=0, seed=0)[0].limits.turns == 8


@pytest.mark.full
def test_every_command_and_the_script_of_the_guide_run(home: Path, here_in: HereIn) -> None:
    here = here_in(home)
    for line in guide(home).splitlines():
        words = [word for word in line.partition("#")[0].split() if word != "agito"]
        here(*words, *(sets(*SMALL, "rl.steps=0") if "train" in words else ()))
    script, settings = home / "train.py", [*SMALL, "rl.steps=0"]
    script.write_text(script.read_text().replace("tokens=32", f"tokens=32, overrides={settings}"))
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=home,
        env=environment(home) | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr


def test_a_script_that_trains_while_it_is_read_for_its_functions_is_told_how_to_stop(
    home: Path, here_in: HereIn
) -> None:
    (home / "mine.py").write_text(
        "import agito\n\n\ndef reward(completion):\n    return "
        "0\n\n\nagito.train(prompts='tasks.jsonl', reward='mine.py:reward', model='model')\n"
    )
    done = here_in(home)(
        "train", "--prompts", "tasks.jsonl", "--reward", "mine.py:reward", "--model", "model", expect=None
    )
    assert done.returncode == 3 and "if __name__ == '__main__':" in done.stderr


def test_prompts_keep_what_the_standard_asks_of_them_and_can_be_played(home: Path, here_in: HereIn) -> None:
    (home / "mine.py").write_text("def reward(completion, kind):\n    return completion == kind + '!'\n")
    here = here_in(home)
    assert "keeps the standard" in here("envs", "check", "tasks.jsonl,reward=mine.py:reward").stdout
