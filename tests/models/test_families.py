"""Every family of the dense decoder against the real transformers: logits, the cache, gradients, folders both
ways, what is refused.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from agito.models import (
    CachedDecoder,
    Decoder,
    DecoderConfig,
    NativeDecoder,
    RopeScaling,
    UnsupportedCheckpoint,
    is_supported,
    load,
    read_config,
    save,
)
from agito.models.families import hf_config, parse_config

TOLERANCE = 1e-5
SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "smollm2": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "tie_word_embeddings": True,
            "head_dim": 12,
        },
    ),
    "llama with every bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("Llama", {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}),
    "llama, linear": (
        "Llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
    ),
    "mistral without windows": ("Mistral", {"sliding_window": None, "rms_norm_eps": 1e-5}),
    "mistral with windows": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen2.5, yarn": ("Qwen2", {"rope_parameters": {"rope_theta": 1e6, **YARN}, "tie_word_embeddings": True}),
    "qwen2 with windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3 with windows": (
        "Qwen3",
        {"head_dim": 16, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 16, "sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    ),
    "gemma3, other scale": (
        "Gemma3Text",
        {"sliding_window": 9, "sliding_window_pattern": 3, "query_pre_attn_scalar": 24, "head_dim": 16},
    ),
    "gemma3, stretched": (
        "Gemma3Text",
        {
            "head_dim": 16,
            "sliding_window": 6,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def theirs(case: str, **changes: Any) -> Any:
    """A small network of the library's own class, weights random and large enough that a
    misplaced one shows.
    """
    name, fields = CASES[case]
    config = getattr(transformers, f"{name}Config")(**SHAPE | fields | changes)
    model: nn.Module = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.12
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def written(case: str, directory: Path, **changes: Any) -> Any:
    model = theirs(case, **changes)
    model.save_pretrained(directory)
    return model


IDS = torch.randint(131, (40,), generator=torch.Generator().manual_seed(0))


@each_case
@torch.no_grad()
def test_logits_of_every_family_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    expected = written(case, tmp_path)(IDS[None]).logits[0]
    ours = load(tmp_path)
    torch.testing.assert_close(ours(IDS, [40]), expected, atol=TOLERANCE, rtol=0)
    assert expected.std() > 0.3
    lengths = [3, 40, 17]
    ragged = ours(torch.cat([IDS[:length] for length in lengths]), lengths).split(lengths)
    for length, logits in zip(lengths, ragged, strict=True):
        torch.testing.assert_close(logits, expected[:length], atol=TOLERANCE, rtol=0)


@each_case
def test_gradients_of_every_family_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    other = written(case, tmp_path)
    other(IDS[None]).logits.square().mean().backward()
    ours = load(tmp_path)
    ours(IDS, [40]).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in other.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["llama", "qwen3", "gemma3", "mistral with windows"])
def test_a_wide_network_whose_keys_and_values_are_not_copied_for_their_query_heads_gives_the_same(
    case: str, tmp_path: Path
) -> None:
    other = written(case, tmp_path, hidden_size=256, num_attention_heads=8, head_dim=16)
    lengths = [3, 40, 17, 38]
    weight = torch.randn(sum(lengths), 131, generator=torch.Generator().manual_seed(1)) * 0.01
    expected = torch.cat([other(IDS[None, :length]).logits[0] for length in lengths])
    (expected * weight).sum().backward()
    ours = load(tmp_path)
    logits = ours(torch.cat([IDS[:length] for length in lengths]), lengths)
    (logits * weight).sum().backward()
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5 * largest, rtol=0)


@each_case
@torch.inference_mode()
def test_the_cache_of_every_family_equals_a_plain_forward_pass(case: str, tmp_path: Path) -> None:
    """Rows grow by random pieces and single tokens, far beyond every window."""
    written(case, tmp_path)
    model, rng = load(tmp_path), random.Random(0)
    cached = CachedDecoder(model.config, slots=3, context=96, device=torch.device("cpu"), dtype=torch.float32)
    cached.load(model.state_dict())
    rows: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for _turn in range(4):
        pieces = [rng.choices(range(131), k=rng.randint(1, 9)) for _ in rows]
        starts = [len(row) for row in rows.values()]
        ids = torch.tensor([token for piece in pieces for token in piece])
        found = cached.extend(ids, list(rows), starts, [len(piece) for piece in pieces])
        for row, piece in zip(rows.values(), pieces, strict=True):
            row += piece
        lengths = [len(row) for row in rows.values()]
        for slot, logits in enumerate(found):
            torch.testing.assert_close(
                logits, model(torch.tensor(rows[slot]), [lengths[slot]])[-1], atol=TOLERANCE, rtol=0
            )
        new = rng.choices(range(131), k=3)
        found = cached.decode(
            torch.tensor(new), torch.arange(3), torch.tensor(lengths), num_slots=3, longest=max(lengths) + 1
        )
        for slot, logits in enumerate(found):
            rows[slot].append(new[slot])
            torch.testing.assert_close(
                logits, model(torch.tensor(rows[slot]), [len(rows[slot])])[-1], atol=TOLERANCE, rtol=0
            )


@each_case
@torch.inference_mode()
def test_compiled_code_of_every_family_equals_transformers(case: str, tmp_path: Path) -> None:
    """Over three pages and every window, by pieces and single tokens."""
    ids = torch.randint(131, (150,), generator=torch.Generator().manual_seed(1))
    expected = written(case, tmp_path, head_dim=16)(ids[None]).logits[0]
    model = load(tmp_path)
    if not is_supported(model.config, torch.device("cpu"), torch.float32):
        pytest.skip("needs a C compiler (apt install gcc)")
    compiled = NativeDecoder(model.config, slots=2, context=160)
    compiled.load(model.state_dict())
    for start, end in ((0, 40), (40, 131)):
        found = compiled.extend(ids[start:end], [1], [start], [end - start])
        torch.testing.assert_close(found[0], expected[end - 1], atol=TOLERANCE, rtol=0)
    for at in range(131, 150):
        found = compiled.decode(ids[at : at + 1], torch.tensor([1]), torch.tensor([at]))
        torch.testing.assert_close(found[0], expected[at], atol=TOLERANCE, rtol=0)


@each_case
@torch.no_grad()
def test_what_we_write_of_every_family_transformers_reads_with_the_same_logits(
    case: str, tmp_path: Path
) -> None:
    written(case, tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    save(ours, tmp_path / "ours", eos_ids=(7,))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(again).__name__ == CASES[case][0].removesuffix("Text") + "ForCausalLM"
    torch.testing.assert_close(again(IDS[None]).logits[0], ours(IDS, [40]), atol=TOLERANCE, rtol=0)
    assert read_config(tmp_path / "ours") == ours.config


@pytest.mark.parametrize("case", ["smollm2", "qwen2", "gemma3"])
@torch.no_grad()
def test_a_sharded_bf16_folder_of_another_family_loads_and_is_close_in_bf16(
    case: str, tmp_path: Path
) -> None:
    theirs(case).bfloat16().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = other(IDS[None]).logits[0]
    torch.testing.assert_close(
        load(tmp_path, dtype=torch.float32)(IDS, [40]), expected, atol=TOLERANCE, rtol=0
    )
    narrow = load(tmp_path)
    assert narrow.head_weight.dtype == torch.bfloat16
    error = (narrow(IDS, [40]).float() - expected).norm() / expected.norm()
    error_theirs = (other.bfloat16()(IDS[None]).logits[0].float() - expected).norm() / expected.norm()
    assert error < 1.25 * error_theirs  # rounds where the reference rounds


@pytest.mark.parametrize(
    ("case", "change", "named"),
    [
        ("llama", {"model_type": "mixtral"}, "model_type"),
        ("llama", {"model_type": ["llama"]}, "model_type"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ("llama", {"hidden_act": "relu"}, "hidden_act"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "rope_type"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ("llama", {"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters"),
        ("mistral with windows", {"attention_bias": True}, "attention_bias"),
        ("mistral with windows", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias"),
        ("qwen2.5, yarn", {"rope_parameters": {**YARN, "mscale": 0.7}}, "mscale"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {},
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0},
                }
            },
            "sliding_attention",
        ),
        ("qwen3", {"num_experts": 8}, "num_experts"),
    ],
    ids=str,
)
def test_what_the_decoder_does_not_do_is_refused_by_the_name_of_its_field(
    case: str, change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    theirs(case).config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedCheckpoint, match=named):
        read_config(tmp_path)


def _before_five(data: dict[str, Any]) -> dict[str, Any]:
    """As transformers wrote it before version 5."""
    old = {
        name: value for name, value in data.items() if name not in ("rope_parameters", "dtype", "layer_types")
    }
    rope = data["rope_parameters"]
    if "full_attention" in rope:
        full, local = rope["full_attention"], rope["sliding_attention"]
        old |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
        pattern = data["layer_types"].index("full_attention") + 1
        rope, old = full, old | {"sliding_window_pattern": pattern}
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return old | {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": scaling if scaling["rope_type"] != "default" else None,
    }


@each_case
def test_a_file_of_before_transformers_5_is_read_as_the_same_network(case: str, tmp_path: Path) -> None:
    theirs(case).config.save_pretrained(tmp_path)
    now = read_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(_before_five(json.loads(path.read_text()))))
    assert read_config(tmp_path) == now


@pytest.mark.parametrize(
    "change",
    [
        {"norm_offset": True},
        {"family": "llama"},
        {"qkv_bias": True},
        {"activation": "gelu_tanh", "family": "gemma3_text"},
        {"query_scale": 0.3},
        {"family": "llama", "qk_norm": False, "sliding_window": 4, "sliding_layers": (0,)},
    ],
    ids=str,
)
def test_a_mixture_that_no_family_has_is_never_written_as_another_network(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        hf_config(replace(DecoderConfig(vocab_size=97), **change), "float32")


@pytest.mark.parametrize(
    "make",
    [
        lambda: DecoderConfig(vocab_size=8, sliding_layers=(0,)),
        lambda: DecoderConfig(vocab_size=8, sliding_layers=(3,), sliding_window=4),
        lambda: DecoderConfig(vocab_size=8, sliding_window=0),
        lambda: RopeScaling(kind="linear", factor=0.5, original_max_position=8),
        lambda: RopeScaling(kind="llama3", factor=2.0, original_max_position=8, low_freq_factor=4.0),
    ],
)
def test_an_impossible_window_or_stretch_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"sliding|factor"):
        make()


@pytest.mark.parametrize("case", ["llama", "gemma3"])
def test_a_network_of_any_family_can_be_drawn_from_a_seed(case: str, tmp_path: Path) -> None:
    written(case, tmp_path)
    config = read_config(tmp_path)
    model = Decoder(config, seed=3)
    assert model(IDS, [40]).isfinite().all()
    assert parse_config(hf_config(config, "float32"), tmp_path) == config
