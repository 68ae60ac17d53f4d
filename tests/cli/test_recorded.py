"""What was served, and what a run did, as somebody trains on it: one option, wherever it comes from."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import HereIn, sets
from tests.cli.test_prompts import REWARD, SMALL
from tests.gateway.test_serving import post, served
from tests.test_policies import pretrained

NUM = 24
LONG = " ".join(str(number * 7919 % 997) for number in range(300))  # for the context of training
SETS = (
    *(each for each in SMALL if not each.startswith(("rl.", "eval."))),
    "rl.steps=1",
    "rl.groups=2",
    "rl.group_size=4",
    "eval.tasks=2",
    "eval.baseline_tasks=0",
    "sft.batch=2",
    "sft.epochs=20",
)


def test_what_was_served_and_what_a_run_did_are_trained_on_by_one_option(
    tmp_path: Path, here_in: HereIn
) -> None:
    """By `agito gateway --record`, `POST /v1/outcomes` and `agito train --sft`."""
    model = pretrained(tmp_path / "runs" / "model")
    rows = [{"prompt": f"find kev {at}", "kind": "a"} for at in range(40)]
    (tmp_path / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD.format(after=0, home=tmp_path))
    with served(model, "--record", "served", "--judge-key", "judge") as (url, _):
        for at in range(NUM):
            text = LONG if at == 1 else f"find kev {at}"
            messages = [{"role": "user", "content": text}]
            answer = post(
                f"{url}/chat/completions", {"model": "model", "messages": messages, "max_tokens": 9}
            )
            post(f"{url}/outcomes", {"id": answer["id"], "reward": at % 3}, key="judge")
    here = here_in(tmp_path)
    tasks = ("--prompts", "tasks.jsonl,tokens=8", "--reward", "mine.py:reward", "--model", "runs/model")
    told: dict[str, str] = {}
    for name, source in (("again", "served"), ("distilled", "runs/again")):
        here("train", *tasks, "--sft", source, "--name", name, *sets(*SETS), "--admit-anyway")
        run = tmp_path / "runs" / name
        texts = [json.loads(line).get("text", "") for line in (run / "events.jsonl").read_text().splitlines()]
        (told[name],) = [text for text in texts if "imitated" in text]
        metrics = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses = [line["sft/loss_nats"] for line in metrics if "sft/loss_nats" in line]
        third = len(losses) // 3
        assert third >= 1 and sum(losses[-third:]) < sum(losses[:third]), (name, losses)
    assert f"{2 * NUM // 3} of {NUM} conversations are imitated, {NUM // 3} no success" in told["again"]
    too_long = f"; 1 of {2 * NUM // 3} segments are longer than compute.context=512"
    assert told["again"].endswith(too_long) and "longer" not in told["distilled"]
    assert " conversations are imitated, " in told["distilled"] and "no success" in told["distilled"]
