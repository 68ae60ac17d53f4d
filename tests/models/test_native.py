"""Compiled code beyond float32 on one thread: bfloat16, threads, pages, sampling, other instruction sets."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agito.models import Decoder, DecoderConfig, NativeDecoder, is_supported
from agito.models.kv_pages import SPAN
from agito.sampling.embedded.sampling import sample

CPU = torch.device("cpu")
LLAMA = DecoderConfig(
    vocab_size=300,
    hidden_size=96,
    intermediate_size=208,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    max_position=512,
    family="llama",
    qk_norm=False,
)
GEMMA = DecoderConfig(
    vocab_size=301,
    hidden_size=112,
    intermediate_size=160,
    num_layers=4,
    num_heads=4,
    num_kv_heads=1,
    head_dim=48,
    max_position=512,
    family="gemma3_text",
    norm_offset=True,
    sandwich_norms=True,
    scale_embeddings=True,
    query_scale=0.1,
    activation="gelu_tanh",
    sliding_window=70,
    sliding_layers=(0, 1, 3),
    local_rope_theta=1e4,
    rope_theta=1e6,
)
QWEN2 = DecoderConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=7,
    num_kv_heads=1,
    head_dim=16,
    max_position=512,
    family="qwen2",
    qk_norm=False,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    tie_embeddings=False,
)
each_config = pytest.mark.parametrize("config", [LLAMA, GEMMA, QWEN2], ids=lambda config: config.family)
pytestmark = pytest.mark.skipif(
    not is_supported(LLAMA, CPU, torch.float32), reason="needs a C compiler (apt install gcc)"
)


def network(config: DecoderConfig, seed: int = 0) -> Decoder:
    """Biases and norms are random too."""
    model, generator = Decoder(config, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def native(
    model: Decoder, slots: int = 4, context: int = 512, dtype: torch.dtype = torch.float32, threads: int = 1
) -> NativeDecoder:
    made = NativeDecoder(model.config, slots=slots, context=context, dtype=dtype, threads=threads)
    made.load(model.state_dict())
    return made


def walked(cached: NativeDecoder, ids: Tensor) -> Tensor:
    """Logits after some of the tokens of two rows that grow by pieces, single tokens between them, far over
    the end of a page.
    """
    found: list[Tensor] = []
    at = 0
    for piece in (5, 150, 40, 3):
        found.append(
            cached.extend(torch.cat([ids[at : at + piece]] * 2), [3, 1], [at, at], [piece, piece]).clone()
        )
        at += piece
        for _ in range(2):
            place = torch.tensor([at, at])
            found.append(cached.decode(ids[at].repeat(2), torch.tensor([1, 3]), place).clone())
            at += 1
    stacked = torch.stack(found)
    assert torch.equal(stacked[:, 0], stacked[:, 1]), "two rows that are alike"
    return stacked[:, 0]


def tokens(config: DecoderConfig, count: int = 256, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def whole(model: Decoder, ids: Tensor) -> Tensor:
    """The view of `walked` on one forward pass."""
    ends = [5, 6, 7, 157, 158, 159, 199, 200, 201, 204, 205, 206]
    return model(ids, [len(ids)])[[end - 1 for end in ends]].float()


@each_config
@torch.inference_mode()
def test_compiled_code_equals_a_plain_forward_pass_within_1e_5_over_pages_windows_and_biases(
    config: DecoderConfig,
) -> None:
    model, ids = network(config), tokens(config)
    torch.testing.assert_close(walked(native(model), ids), whole(model, ids), atol=1e-5, rtol=0)


@each_config
@torch.inference_mode()
def test_in_bf16_compiled_code_is_nearer_to_float32_than_the_training_path_in_bf16(
    config: DecoderConfig,
) -> None:
    model, ids = network(config).bfloat16().float(), tokens(config)
    expected = whole(model, ids)
    error = (walked(native(model, dtype=torch.bfloat16), ids) - expected).norm()
    narrow = Decoder(config, seed=None, dtype=torch.bfloat16)
    narrow.load_state_dict(model.state_dict())
    assert error < (whole(narrow, ids) - expected).norm()
    assert error < 0.02 * expected.norm()


@each_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_any_number_of_threads_gives_the_same_bits(config: DecoderConfig, dtype: torch.dtype) -> None:
    model, ids = network(config), tokens(config)
    alone = walked(native(model, dtype=dtype), ids)
    for threads in (2, 3):
        assert torch.equal(walked(native(model, dtype=dtype, threads=threads), ids), alone)


@each_config
@torch.inference_mode()
def test_a_row_in_bf16_has_the_same_bits_whatever_is_beside_it(config: DecoderConfig) -> None:
    cached, ids = native(network(config), slots=40, dtype=torch.bfloat16), tokens(config, 200)
    alone = cached.extend(ids[:130], [0], [0], [130]).clone()
    counts = [1 + at % 9 for at in range(39)]
    beside = torch.cat([*(ids[:count] for count in counts), ids[:130]])
    assert torch.equal(cached.extend(beside, [*range(1, 40), 0], [0] * 40, [*counts, 130])[-1], alone[0])
    rows = torch.arange(40)
    many = cached.decode(ids[130].repeat(40), rows, torch.tensor([130, *counts])).clone()
    cached.extend(ids[:130], [0], [0], [130])
    assert torch.equal(cached.decode(ids[130:131], rows[:1], torch.tensor([130]))[0], many[0])


@torch.inference_mode()
@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=lambda config: config.family)
def test_what_a_page_holds_beyond_its_positions_changes_no_bit(config: DecoderConfig) -> None:
    """In bfloat16 two positions share a word, and the second may be whatever was there before."""
    ids, size = tokens(config, 70), 2 * SPAN * config.head_dim * 2 * config.num_layers * config.num_kv_heads

    def last_logits(fill: int, length: int) -> Tensor:
        decoder = native(network(config), dtype=torch.bfloat16)
        decoder.extend(ids, [0], [0], [len(ids)])
        for page in decoder.read(0, len(ids)).pages:
            ctypes.memset(page.address, fill, size)
        decoder.extend(ids[:1], [1], [0], [1])  # else the pages' memory is given back
        decoder.release(0)
        return decoder.extend(ids[:length], [0], [0], [length])

    for length in (1, 2, 7, 63, 65):
        assert torch.equal(last_logits(0xFF, length), last_logits(0, length)), length


def test_rows_that_begin_alike_hold_their_pages_once_go_on_apart_and_the_last_gives_all_memory_back() -> None:
    model, rng = network(LLAMA), random.Random(0)
    cached, ids = native(model, slots=9), tokens(LLAMA, 200)
    cached.extend(ids, [0], [0], [200])
    one = cached.cache_bytes
    cached.move([0] * 8, list(range(1, 9)), [200] * 8)
    assert cached.cache_bytes == one + 8 * one // 4  # three pages are shared, the fourth is begun
    pieces = [torch.tensor(rng.choices(range(300), k=80)) for _ in range(9)]
    found = cached.extend(torch.cat(pieces), list(range(9)), [200] * 9, [80] * 9)
    for piece, logits in zip(pieces, found, strict=True):
        torch.testing.assert_close(logits, model(torch.cat([ids, piece]), [280])[-1], atol=1e-5, rtol=0)
    held = cached.held_bytes
    for slot in range(9):
        assert cached.held_bytes == held > cached.cache_bytes > 0
        cached.release(slot)
    assert cached.cache_bytes == cached.held_bytes == 0, "memory for learning is not to wait for rows to come"


@torch.inference_mode()
def test_what_is_kept_of_a_row_outlives_its_slot_and_can_be_put_back_twice() -> None:
    model, ids = network(LLAMA), tokens(LLAMA, 200)
    for dtype in (torch.float32, torch.bfloat16):
        cached = native(model, dtype=dtype)
        expected = cached.extend(ids[:140], [0], [0], [140])[0].clone()
        cached.extend(ids[:131], [1], [0], [131])
        kept = cached.read(1, 131)
        cached.extend(ids[20:60], [1], [131], [40])  # whoever has the row goes on
        cached.release(1)
        cached.extend(ids[50:120], [1], [0], [70])  # another row there
        for slot in (2, 3):
            cached.write(slot, kept)
        found = cached.extend(
            torch.cat([ids[131:140], ids[150:170], ids[131:140]])[:29], [2, 3], [131, 131], [9, 20]
        )
        assert torch.equal(found[0], expected)
        cached.write(3, kept)
        assert torch.equal(cached.extend(ids[131:140], [3], [131], [9])[0], expected)


@torch.inference_mode()
def test_a_long_context_reserves_nothing() -> None:
    model = network(LLAMA)
    cached = native(model, slots=64)
    cached.extend(tokens(LLAMA, 64), list(range(64)), [0] * 64, [1] * 64)
    assert cached.cache_bytes == 64 * LLAMA.num_layers * 2 * LLAMA.num_kv_heads * 64 * LLAMA.head_dim * 4


@pytest.mark.parametrize("vocab", [300, 49152, 70001])
@torch.inference_mode()
def test_a_draw_in_compiled_code_is_the_inverse_of_the_cumulative_distribution(vocab: int) -> None:
    config = DecoderConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
    )
    cached, generator = NativeDecoder(config, slots=1, context=8), torch.Generator().manual_seed(vocab)
    logits = torch.full((64, -(-vocab // 16) * 16), -3e38)
    logits[:, :vocab] = torch.randn(64, vocab, generator=generator) * 3
    uniforms = torch.rand(64, generator=generator, dtype=torch.float64)
    temperatures = torch.tensor([1.0, 0.7, 1.3, 0.0]).repeat(16)
    ids, logprobs = cached.draw(logits[:, :vocab], uniforms, temperatures)
    is_drawn = temperatures > 0
    exact = (
        logits[:, :vocab].double() / torch.where(is_drawn, temperatures, 1.0).double()[:, None]
    ).log_softmax(-1)
    torch.testing.assert_close(logprobs.double(), exact.gather(1, ids[:, None])[:, 0], atol=2e-6, rtol=0)
    assert torch.equal(ids[~is_drawn], exact[~is_drawn].argmax(-1))
    below = exact.exp().cumsum(-1).gather(1, ids[:, None])[:, 0]
    assert (below >= uniforms - 1e-6)[is_drawn].all()
    assert (below - exact.exp().gather(1, ids[:, None])[:, 0] <= uniforms + 1e-6)[is_drawn].all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0])
@torch.inference_mode()
def test_a_truncated_draw_in_compiled_code_is_that_of_torch(spread: float) -> None:
    """Flat and steep distributions, with equal entries among them."""
    vocab, count, generator = 9000, 200, torch.Generator().manual_seed(3)
    config = DecoderConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
    )
    cached, logits = NativeDecoder(config, slots=1, context=8), torch.full((count, 9008), -3e38)
    logits[:, :vocab] = (torch.randn(count, vocab, generator=generator) * spread * 8).round() / 8
    uniforms = torch.rand(count, generator=generator, dtype=torch.float64)
    top_ps, temperatures = (
        torch.tensor([0.1, 0.9, 0.999, 1.0, 1e-9]).repeat(40),
        torch.tensor([1.0, 0.6, 1.0, 0.0]).repeat(50),
    )
    ids, logprobs = cached.draw(logits[:, :vocab], uniforms, temperatures, top_ps)
    expected_ids, expected = sample(logits[:, :vocab], uniforms, temperatures, top_ps, is_greedy=True)
    assert (ids == expected_ids).float().mean() > 0.98, "sums round at other places"
    is_same = ids == expected_ids
    torch.testing.assert_close(logprobs[is_same], expected[is_same], atol=1e-5, rtol=0)
    assert ((ids - expected_ids).abs()[~is_same] < 20).all() or spread


def test_logits_that_are_no_numbers_end_in_some_token_and_no_crash() -> None:
    config = DecoderConfig(
        vocab_size=9000,
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
    )
    cached = NativeDecoder(config, slots=1, context=8)
    logits = torch.stack(
        [
            torch.full((9008,), float("nan")),
            torch.zeros(9008).index_fill(0, torch.tensor([17, 8999]), float("nan")),
        ]
    )
    for top_ps in (None, torch.full((2,), 0.5)):
        for temperatures in (torch.ones(2), torch.zeros(2)):
            ids, _ = cached.draw(
                logits[:, :9000], torch.full((2,), 0.7, dtype=torch.float64), temperatures, top_ps
            )
            assert ((ids >= 0) & (ids < 9008)).all()


def test_what_has_no_share_is_never_drawn_in_compiled_code() -> None:
    config = DecoderConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=16,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
    )
    cached = NativeDecoder(config, slots=1, context=8)
    logits = torch.full((3, 400), -90.0)
    logits[:, [3, 390]] = 0.0
    ids, logprobs = cached.draw(
        logits, torch.tensor([0.0, 0.4, 1 - 2**-53], dtype=torch.float64), torch.ones(3)
    )
    assert ids.tolist() == [3, 3, 390]
    torch.testing.assert_close(logprobs.exp(), torch.full((3,), 0.5))


def test_a_processor_with_avx2_alone_computes_the_same_within_rounding(tmp_path: Path) -> None:
    """In a separate process, as a library is loaded once."""
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with AVX2")
    path = tmp_path / "found.json"
    code = (
        "import json, sys, torch\nsys.path.insert(0, sys.argv[1])\nimport test_native\n"
        "open(sys.argv[2], 'w').write(json.dumps([found.tolist() for found in "
        "test_native.in_both_precisions()]))\n"
    )
    environment = {**os.environ, "AGITO_ISA": "avx2", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    for found, here, bound in zip(
        json.loads(path.read_text()), in_both_precisions(), (1e-5, 0.02), strict=True
    ):
        assert (torch.tensor(found) - here).norm() < bound * here.norm()


@torch.inference_mode()
def in_both_precisions() -> list[Tensor]:
    return [
        walked(native(network(GEMMA), dtype=dtype), tokens(GEMMA))
        for dtype in (torch.float32, torch.bfloat16)
    ]
