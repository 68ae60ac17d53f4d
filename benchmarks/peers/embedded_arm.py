"""Agito's embedded engine on the engine workload, in process, for a checkpoint of any family.

    python embedded_arm.py CHECKPOINT HOW DTYPE OPENING EPISODES [EPISODES ...]

HOW: `threads`, one engine on two cores; `engines`, one on each, episodes distributed round robin; `speed`,
decoding steps and prompts alone, on one thread, against the core's limits; `said`, the episodes' tokens with
the log-probabilities of those that were sampled. Prints one JSON line: {episodes: [sampled tokens per second,
CPU-seconds]}, the figures, or a list of {"ids", "logprobs"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import anyio
import anyio.to_thread
import torch
from agents import Said, play
from workload import Turn, episodes, num_sampled

from agito.models import NativeDecoder, load
from agito.models.network import Decoder
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse

CONTEXT, ROWS, CORES = 1024, 32, 2


async def run(engines: list[EmbeddedEngine], work: list[list[Turn]]) -> list[Said]:
    def client(engine: EmbeddedEngine) -> EngineClient:
        async def advance(request: EngineRequest) -> EngineResponse:
            return await anyio.to_thread.run_sync(engine.advance, request)

        return EngineClient(advance=advance, context=CONTEXT)

    return await play([client(engine) for engine in engines], work)


@torch.inference_mode()
def speed(model: Decoder, dtype: torch.dtype) -> dict[str, float]:
    """Tokens per second of one thread: prompts of 384 tokens, and decoding rows after as many."""
    network = NativeDecoder(model.config, slots=32, context=CONTEXT, dtype=dtype)
    weights = model.state_dict()
    figures = {"load_s": _seconds(lambda: network.load(weights), times=2)}
    ids = torch.randint(model.config.vocab_size, (384,), generator=torch.Generator().manual_seed(0))
    figures["prefill"] = 384 / _seconds(lambda: network.extend(ids, [0], [0], [384]), times=4)
    network.move([0] * 31, list(range(1, 32)), [384] * 31)
    numbers, square = torch.ones(1 << 26), torch.randn(1024, 1024).to(dtype)
    bytes_s = _seconds(numbers.sum, times=5) / numbers.nbytes
    flop_s = _seconds(lambda: square @ square, times=20) / (2 * 1024**3)
    body = sum(weight.numel() for name, weight in weights.items() if ".layers." in name)
    read = body + model.config.vocab_size * model.config.hidden_size
    figures |= {
        "gb_read_per_s": 1e-9 / bytes_s,
        "gflop_per_s": 1e-9 / flop_s,
        "prefill_of_bound": figures["prefill"] * 2 * body * flop_s,
    }
    for rows in (1, 8, 32):
        slots, positions = torch.arange(rows), torch.full((rows,), 384)
        step_s = _seconds(lambda rows=rows, at=(slots, positions): network.decode(ids[:rows], *at), times=10)
        bound_s = max(read * dtype.itemsize * bytes_s, 2 * rows * read * flop_s)
        figures |= {f"decode_{rows}": rows / step_s, f"decode_{rows}_of_bound": bound_s / step_s}
    return {name: round(value, 3) for name, value in figures.items()}


def _seconds(run: Callable[[], object], *, times: int) -> float:
    """The best of several."""
    found: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    path, how, dtype, opening, *numbers = sys.argv[1:]
    torch.set_num_threads(1)
    model, precision = load(path, dtype=torch.float32), getattr(torch, dtype)
    if how == "speed":
        print(json.dumps(speed(model, precision)))
        return
    count, threads = (CORES, 1) if how == "engines" else (1, CORES)
    engines = [
        EmbeddedEngine(model, rows=ROWS, context=CONTEXT, dtype=precision, threads=threads)
        for _ in range(count)
    ]
    if how == "said":
        found = anyio.run(run, engines, episodes(int(numbers[0]), seed=0, opening=int(opening)))
        print(json.dumps([{"ids": said.ids, "logprobs": said.logprobs} for said in found]))
        return
    anyio.run(run, engines, episodes(2, seed=99, opening=int(opening)))
    rates: dict[str, list[float]] = {}
    for number in map(int, numbers):
        work = episodes(number, seed=0, opening=int(opening))
        began, cpu_s = time.monotonic(), time.process_time()
        anyio.run(run, engines, work)
        rates[str(number)] = [num_sampled(work) / (time.monotonic() - began), time.process_time() - cpu_s]
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
