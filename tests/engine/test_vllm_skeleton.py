"""A real model, shell and vLLM: sampled there, trained here, published back, in float32, with the server
killed in between."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from agito.sampling.vllm import installed

FOLDER = Path(os.environ.get("AGITO_MODELS", "models")) / "smollm2-135m"

pytestmark = [
    pytest.mark.full,
    pytest.mark.anyio,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        installed() is None, reason="needs vLLM: make vllm, and AGITO_VLLM where it is elsewhere"
    ),
    pytest.mark.skipif(
        not (FOLDER / "config.json").is_file(),
        reason=f"needs {FOLDER}: agito models get smollm2-135m, and AGITO_MODELS if it is elsewhere",
    ),
]


@pytest.mark.parametrize("is_merged", [False, True], ids=["adapters", "full weights"])
async def test_what_vllm_samples_is_what_the_learner_knows_before_and_after_a_publication_and_a_kill(
    is_merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark: Any = importlib.import_module("vllm_sampler")
    bench = importlib.import_module("skeleton").Bench(FOLDER.resolve(), True)
    bench.limits["turn_tokens"] = 24
    figures, _ = await benchmark.run(bench, is_merged=is_merged)
    assert max(figures["known_before"], figures["known_after"]) < 1e-3
    assert max(figures["sampler_vs_learner_before"], figures["sampler_vs_learner_after"]) < 1e-3
    assert figures["learner_moved"] > 1e-2, "nothing was learned that a publication could show"
    assert figures["versions_after"] == [2] and figures["servers"] == 2 and figures["void"] == 0
