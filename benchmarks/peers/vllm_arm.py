"""vLLM's CPU build on the engine workload, in process, without text: token ids in, token ids and
log-probabilities out.

    python vllm_arm.py CHECKPOINT EPISODES [EPISODES ...]

Environment: DTYPE, OPENING (tokens). Prints one JSON line {episodes: [sampled tokens per second,
CPU-seconds]}. Prefix caching is on; no compilation.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  (its engine is an asyncio program, run here in an environment of its own)
import json
import os
import resource
import sys
import time
from typing import Any

from workload import TOOL_S, Turn, episodes, num_sampled

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
DTYPE, OPENING = os.environ.get("DTYPE", "float32"), int(os.environ.get("OPENING", "0"))


async def episode(engine: Any, name: str, turns: list[Turn]) -> None:
    from vllm import SamplingParams  # type: ignore[import-not-found]
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

    history: list[int] = []
    for number, turn in enumerate(turns):
        history += turn.observed
        params = SamplingParams(
            max_tokens=turn.num_sampled,
            min_tokens=turn.num_sampled,
            ignore_eos=True,
            temperature=1.0,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = None
        async for out in engine.generate({"prompt_token_ids": list(history)}, params, f"{name}-{number}"):
            final = out
        assert final is not None and len(final.outputs[0].token_ids) == turn.num_sampled
        history += final.outputs[0].token_ids
        await asyncio.sleep(TOOL_S)


async def measure(path: str, numbers: list[int]) -> dict[str, list[float]]:
    from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
    from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found]

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=path,
            dtype=DTYPE,
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=128,
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            disable_log_stats=True,
        )
    )
    rates: dict[str, list[float]] = {}
    try:
        for number in [2, *numbers]:
            work = episodes(number, seed=0 if number in numbers else 99, opening=OPENING)
            began, cpu_s = time.monotonic(), _cpu_s()
            await asyncio.gather(
                *(episode(engine, f"{number}-{index}", turns) for index, turns in enumerate(work))
            )
            rates[str(number)] = [num_sampled(work) / (time.monotonic() - began), _cpu_s() - cpu_s]
    finally:
        engine.shutdown()
    return {str(number): rates[str(number)] for number in numbers}


def _cpu_s() -> float:
    """CPU time of this process; its engine core is another process, counted only once it ends."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], list(map(int, sys.argv[2:]))))))
