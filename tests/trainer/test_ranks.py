from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from safetensors.torch import load_file

from agito.learning.trainer import OneRank
from agito.learning.trainer.network_reducer import interface_of

RANK = Path(__file__).with_name("rank.py")


Outcome: TypeAlias = "list[tuple[dict[str, torch.Tensor], list[dict[str, float]]]]"


def run(num_ranks: int, out: Path, *minibatches: int, over: str = "memory") -> dict[int, Outcome]:
    """Weights and figures of each rank, by the number of minibatches."""
    command = [sys.executable, "-W", "error", str(RANK)]
    ranks = [
        subprocess.Popen(
            [
                *command,
                str(rank),
                str(num_ranks),
                str(out / "meeting"),
                str(out),
                over,
                *map(str, minibatches),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return {
        each: [
            (
                load_file(out / f"{each}-{rank}.safetensors"),
                json.loads((out / f"{each}-{rank}.json").read_text()),
            )
            for rank in range(num_ranks)
        ]
        for each in minibatches
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Outcome]:
    return run(2, tmp_path_factory.mktemp("two"), 1, 3)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.full)])
def test_ranks_together_make_the_update_of_one_rank_on_the_union(
    tmp_path: Path, num_ranks: int, two: dict[int, Outcome]
) -> None:
    trainer, alone_values = runpy.run_path(str(RANK))["train"](OneRank(), rank=0, num_ranks=1, minibatches=1)
    alone = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    (first, first_values), *others = two[1] if num_ranks == 2 else run(num_ranks, tmp_path, 1)[1]
    for weights, values in others:
        assert all(torch.equal(weights[name], value) for name, value in first.items())
        assert values == first_values
    assert max(float((first[name] - value).abs().max()) for name, value in alone.items()) <= 1e-6
    for mine, theirs in zip(first_values, alone_values, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_ranks_agree_bit_for_bit_with_several_minibatches_of_which_some_are_empty(
    two: dict[int, Outcome],
) -> None:
    (first, first_values), (second, second_values) = two[3]
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert first_values == second_values


def test_ranks_without_memory_in_common_make_the_same_update_bit_for_bit(
    tmp_path: Path, two: dict[int, Outcome]
) -> None:
    (expected, figures), _ = two[1]
    for weights, values in run(2, tmp_path, 1, over="network")[1]:
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
        assert values == figures


def test_ranks_that_have_masters_and_moments_once_for_all_make_the_same_update_bit_for_bit(
    tmp_path: Path,
) -> None:
    apart, together = (
        run(2, made, 2, over=f"{over}:bfloat16")[2]
        for over in ("network", "memory")
        for made in [tmp_path / over]
        if not made.mkdir()
    )
    for weights, values in together:
        assert all(torch.equal(weights[name], value) for name, value in apart[0][0].items())
        assert values == apart[0][1]
    states = [load_file(tmp_path / over / "state-2-0" / "trainer.tensors") for over in ("network", "memory")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_a_machine_is_found_by_its_own_address_only() -> None:
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(OSError, match=r"no network interface here has the address 192\.0\.2\.1"):
        interface_of("192.0.2.1")


LEAVE = """
import os, sys
from pathlib import Path
from agito.learning.trainer import SharedReducer
reducer = SharedReducer(int(sys.argv[1]), 2, Path(sys.argv[2]), timeout_s=60)
reducer.sum([1.0])
if sys.argv[1] == "1":
    os._exit(0)
try:
    reducer.sum([1.0])
except RuntimeError:
    print("noticed")
"""


def test_a_rank_that_is_gone_is_noticed_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVE]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=50)[0] for process in ranks]
    assert outputs[0].strip() == "noticed"
