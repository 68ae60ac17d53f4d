"""transformers on the engine workload: `generate` on left-padded batches that keep their cache, or continuous
batching.

    python transformers_arm.py CHECKPOINT {generate|continuous} THREADS EPISODES [EPISODES ...]
    python transformers_arm.py CHECKPOINT score THREADS FILE

Environment: DEVICE, DTYPE, OPENING (tokens). Prints one JSON line {episodes: [sampled tokens per second,
CPU-seconds]}. `generate` runs all episodes turn by turn: the whole batch waits for its longest turn, and once
for the tool. `score` prints the largest difference, in nats, from the log-probabilities of FILE, a list of
{"ids", "logprobs"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from padding import left_padded
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig
from workload import TOOL_S, Turn, episodes, num_sampled


def generate(model: Any, work: list[list[Turn]]) -> None:
    live = [list(turns) for turns in work]
    batch = len(live)
    ids, mask = torch.zeros(2, batch, 0, dtype=torch.long, device=model.device)
    cache = DynamicCache(config=model.config)
    while any(live):
        keep = torch.tensor([index for index, turns in enumerate(live) if turns], device=model.device)
        if len(keep) < len(live):  # finished episodes leave the batch
            ids, mask = ids[keep], mask[keep]
            cache.batch_select_indices(keep)
            live = [turns for turns in live if turns]
        turns = [each.pop(0) for each in live]
        new, new_mask = (each.to(model.device) for each in left_padded([turn.observed for turn in turns]))
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, new_mask], 1)
        longest = max(turn.num_sampled for turn in turns)
        options = GenerationConfig(
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        out = model.generate(ids, attention_mask=mask, past_key_values=cache, generation_config=options)
        said = out.sequences[:, ids.shape[1] :]
        logits = torch.stack(out.logits, 1)
        logits.log_softmax(-1).gather(2, said[..., None])  # the log-probabilities that training needs
        said_mask = torch.tensor(
            [[int(at < turn.num_sampled) for at in range(longest)] for turn in turns], device=model.device
        )
        ids, mask = torch.cat([ids, said], 1), torch.cat([mask, said_mask], 1)
        cache = out.past_key_values
        time.sleep(TOOL_S)


def continuous(model: Any, work: list[list[Turn]]) -> None:
    options = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
        eos_token_id=-1,
        max_new_tokens=64,
    )
    manager = model.init_continuous_batching(generation_config=options)
    manager.start()
    history: list[list[int]] = [[] for _ in work]
    left = [list(turns) for turns in work]
    ready: list[tuple[float, int]] = [(0.0, index) for index in range(len(work))]
    try:
        busy: dict[str, int] = {}
        while busy or ready:
            now = time.monotonic()
            for at, index in [each for each in ready if each[0] <= now]:
                ready.remove((at, index))
                if left[index]:
                    turn = left[index].pop(0)
                    history[index] += turn.observed
                    busy[manager.add_request(list(history[index]), max_new_tokens=turn.num_sampled)] = index
            done = manager.get_result(timeout=0.01)
            if done is not None and done.is_finished():
                index = busy.pop(done.request_id)
                history[index] += done.generated_tokens
                ready.append((time.monotonic() + TOOL_S, index))
    finally:
        manager.stop(block=True)


@torch.inference_mode()
def score(model: Any, told: list[dict[str, Any]]) -> float:
    largest = 0.0
    for each in told:
        ids = torch.tensor(each["ids"], device=model.device)
        whole = model(ids[None]).logits[0, :-1].float().log_softmax(-1)
        found = whole.gather(1, ids[1:, None])[:, 0].tolist()
        pairs = zip(found, each["logprobs"][1:], strict=True)
        largest = max(largest, *(abs(one - other) for one, other in pairs if other is not None))
    return largest


def main() -> None:
    path, way, threads, *numbers = sys.argv[1:]
    torch.set_num_threads(int(threads))
    settings = {"attn_implementation": "paged|sdpa" if way == "continuous" else "sdpa"}
    dtype, opening = getattr(torch, os.environ.get("DTYPE", "float32")), int(os.environ.get("OPENING", "0"))
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **settings)
    model.to(os.environ.get("DEVICE", "cpu")).eval()
    if way == "score":
        print(json.dumps(score(model, json.loads(Path(numbers[0]).read_text()))))
        return
    run = generate if way == "generate" else continuous
    rates: dict[str, list[float]] = {}
    with torch.inference_mode():
        run(model, episodes(2, seed=99, opening=opening))
        for number in map(int, numbers):
            work = episodes(number, seed=0, opening=opening)
            began, cpu_s = time.monotonic(), time.process_time()
            run(model, work)
            rates[str(number)] = [num_sampled(work) / (time.monotonic() - began), time.process_time() - cpu_s]
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
