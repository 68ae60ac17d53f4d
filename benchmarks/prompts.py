"""Reinforcement learning without any demonstrator: a file of prompts, a reward function, an instruct model.

`python benchmarks/prompts.py --model FOLDER [--short] [--seeds 2]`, with a folder that `agito models get
smollm2-135m` made. Each prompt says three things of a person and asks for one; right is an answer that holds
it and none of the others. Before and after: one attempt at each held-out prompt, at the temperature of
training. What the user writes is `SCRIPT`, and it is run as a person would run it, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agito.record import Rate
from harness import Json, report

JOBS = ["baker", "doctor", "driver", "farmer", "lawyer", "nurse", "painter", "pilot", "singer", "teacher"]
CITIES = ["Athens", "Berlin", "Dublin", "Lisbon", "London", "Madrid", "Oslo", "Paris", "Rome", "Vienna"]
NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Laura",
    "Mark",
    "Nina",
    "Oscar",
    "Paula",
    "Ralph",
]
ASK = ("How old is {name}?", "What is the job of {name}?", "Where is {name} from?")
SCRIPT = """\
import sys

import agito


def reward(completion, answer, others):
    return answer in completion and not any(other in completion for other in others)


if __name__ == "__main__":
    agito.train(
        prompts="tasks.jsonl,tokens=32,holdout=0.15", reward=reward, model=sys.argv[1],
        overrides=["rl.temperature=0.7", "eval.temperature=0.7", "compute.context=192", *sys.argv[2:]],
    )
"""


def rows(number: int) -> list[dict[str, Json]]:
    rng, found = random.Random(0), list[dict[str, Json]]()
    for at in range(number):
        name, facts = rng.choice(NAMES), [str(rng.randint(20, 79)), rng.choice(JOBS), rng.choice(CITIES)]
        text = f"{name} is a {facts[0]}-year-old {facts[1]} from {facts[2]}. {ASK[at % 3].format(name=name)}"
        answer = facts.pop(at % 3)
        found.append({"prompt": text, "answer": answer, "others": list(facts)})
    return found


def train(folder: Path, model: Path, seed: int, steps: int, tasks: int) -> dict[str, Json]:
    """One run of the script; what it came to."""
    given = (
        f"seed={seed}",
        f'name="{seed}"',
        f"rl.steps={steps}",
        f"eval.tasks={tasks}",
        "eval.baseline_tasks=0",
    )
    began = time.monotonic()
    print(f"seed {seed}: {steps} steps", flush=True)
    subprocess.run(
        [sys.executable, "ten_lines.py", str(model.resolve()), *given],
        cwd=folder,
        check=True,
        env={**os.environ},
    )
    summary = json.loads((folder / "runs" / str(seed) / "summary.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "zero_shot": [round(summary[f"success_before{part}"], 4) for part in ("", "_low", "_high")],
        "after_rl": [round(summary[f"success_after{part}"], 4) for part in ("", "_low", "_high")],
        "num": summary["num_eval_tasks"],
        "cpu_s": round(summary["cpu_s"]),
        "void": summary["void_attempts"],
        "wall_s": round(time.monotonic() - began),
    }


def pooled(runs: list[dict[str, Json]], name: str) -> list[float]:
    """Over all seeds, whose held-out prompts are the same: the interval is over distinct prompts."""
    numbers = [int(str(run["num"])) for run in runs]
    successes = sum(round(float(str(run[name][0])) * num) for run, num in zip(runs, numbers, strict=True))  # type: ignore[index]
    rate = Rate(successes=successes, num=sum(numbers), num_tasks=max(numbers))
    return [round(rate.success, 4), round(rate.low, 4), round(rate.high, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=Path("models/smollm2-135m"), help="a Hugging Face folder"
    )
    parser.add_argument("--short", action="store_true", help="one seed, fewer steps and prompts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    seeds, steps, tasks = (1, 4, 60) if arguments.short else (arguments.seeds, arguments.steps, 200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows(1600)))
        (folder / "ten_lines.py").write_text(SCRIPT)
        runs = [
            train(folder, arguments.model, seed, steps, tasks)
            for seed in range(arguments.first, arguments.first + seeds)
        ]
    figures: dict[str, Json] = {
        "zero_shot": pooled(runs, "zero_shot"),
        "after_rl": pooled(runs, "after_rl"),
        "lines": sum(bool(line.strip()) for line in SCRIPT.splitlines()),
        "wall_s": max(int(str(run["wall_s"])) for run in runs),
    }
    report("prompts", figures, {"steps": steps, "runs": runs})


if __name__ == "__main__":
    main()
