"""Converts a GGUF file to a Hugging Face folder: dequantised weights, tokenizer and chat template.

`python -m agito.models.convert FILE FOLDER` runs in its own process. Needs the package `gguf`: `pip install
agito[models]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from agito.errors import AgitoError
from agito.models.checkpoint import save
from agito.models.config import DecoderConfig, UnsupportedCheckpoint
from agito.models.network import Decoder

_CONTROL, _USER_DEFINED = 3, 4  # token types
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# GGUF does not state this: every sixth layer uses full attention.
_GEMMA_PERIOD, _GEMMA_LOCAL_THETA = 6, 10_000.0
_TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' "
    "%}{% set said = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set said = messages %}{% endif %}"
    "{% for message in said %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ (first if loop.first else '') + message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


class MissingPackage(AgitoError):
    """An optional package is not installed."""


def convert(file: Path, directory: Path, *, dtype: torch.dtype = torch.float32) -> Decoder:
    """Writes the folder. Raises `UnsupportedCheckpoint`, naming what cannot be converted, and
    `MissingPackage`."""
    try:
        from gguf import GGUFReader  # pyright: ignore[reportMissingImports]
        from gguf.quants import dequantize  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackage(
            "reading a GGUF file needs the package gguf: pip install agito[models]"
        ) from error
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    config = _config(fields, {tensor.name for tensor in reader.tensors})
    model = Decoder(config, seed=None, device="meta")
    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        name = _name(tensor.name, fields["general.architecture"])
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        weights[name] = _as_published(name, values, config).to(dtype)
    model.load_state_dict(weights, assign=True)
    tokenizer = _tokenizer(fields)
    ends = _ends(fields, tokenizer)
    files = {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(_tokenizer_config(fields), indent=2) + "\n",
    }
    save(model, directory, eos_ids=ends, pad_id=fields.get("tokenizer.ggml.padding_token_id"), extra=files)
    return model


def _config(fields: Mapping[str, Any], tensors: set[str]) -> DecoderConfig:
    kind = fields["general.architecture"]
    if kind not in _NORMS:
        raise UnsupportedCheckpoint(f"general.architecture={kind}: converted are {', '.join(_NORMS)}")
    for name in ("expert_count", "rope.scaling.type"):
        if fields.get(f"{kind}.{name}") not in (None, 0, "none"):
            raise UnsupportedCheckpoint(f"{kind}.{name}={fields[f'{kind}.{name}']}: not implemented")
    strange = sorted(name for name in tensors if name.endswith(".bias") or name == "rope_freqs.weight")
    if strange:
        raise UnsupportedCheckpoint(f"tensor {strange[0]}: not implemented")

    def of(name: str, default: Any = None) -> Any:
        found = fields.get(f"{kind}.{name}", default)
        # The file stores float32; recover the short decimal of the original.
        return float(f"{found:.6g}") if isinstance(found, float) else found

    num_heads, num_layers = of("attention.head_count"), of("block_count")
    is_gemma = kind == "gemma3"
    return DecoderConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=of("attention.head_count_kv", num_heads),
        head_dim=of("attention.key_length") or of("embedding_length") // num_heads,
        rope_theta=of("rope.freq_base", 10_000.0),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        tie_embeddings="output.weight" not in tensors,
        max_position=of("context_length"),
        family="gemma3_text" if is_gemma else "llama",
        qk_norm=is_gemma,
        norm_offset=is_gemma,
        sandwich_norms=is_gemma,
        scale_embeddings=is_gemma,
        activation="gelu_tanh" if is_gemma else "silu",
        sliding_window=of("attention.sliding_window") if is_gemma else None,
        sliding_layers=tuple(layer for layer in range(num_layers) if (layer + 1) % _GEMMA_PERIOD)
        if is_gemma
        else (),
        local_rope_theta=_GEMMA_LOCAL_THETA if is_gemma else None,
    )


def _name(tensor: str, kind: str) -> str:
    stem, _, end = tensor.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{end}"
    block, number, part = stem.split(".", 2)
    found = (_NAMES | _NORMS[kind]).get(part)
    if block != "blk" or found is None:
        raise UnsupportedCheckpoint(f"tensor {tensor}: not implemented")
    return f"model.layers.{number}.{found}.{end}"


def _as_published(name: str, values: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
    """Undoes llama.cpp's changes to weights: it interleaves Llama's rotated halves and stores 1 + weight for
    Gemma's norms."""
    if config.norm_offset:
        return values - 1.0 if values.dim() == 1 else values
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_heads if name.endswith("q_proj.weight") else config.num_kv_heads
        return values.view(heads, config.head_dim // 2, 2, -1).transpose(1, 2).reshape(values.shape)
    return values


def _tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    model = fields["tokenizer.ggml.model"]
    if model == "gpt2":
        tokenizer = _byte_level(fields, tokens)
    elif model == "llama":
        tokenizer = _sentence_piece(fields, tokens, kinds)
    else:
        raise UnsupportedCheckpoint(f"tokenizer.ggml.model={model}: converted are gpt2, llama")
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    if fields.get("tokenizer.ggml.add_bos_token"):
        bos = fields["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def _byte_level(fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    splits = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt-2": [],
        "qwen2": [pre_tokenizers.Split(Regex(_QWEN2), "isolated")],
        "llama-bpe": [pre_tokenizers.Split(Regex(_LLAMA3), "isolated")],
    }
    name = fields.get("tokenizer.ggml.pre", "gpt-2")
    if name not in splits:
        raise UnsupportedCheckpoint(f"tokenizer.ggml.pre={name}: converted are {', '.join(splits)}")
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=name == "llama-bpe",
        )
    )
    use_regex = name in ("smollm", "gpt-2")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits[name], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# One digit per token.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n"
    r"]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _sentence_piece(fields: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> Tokenizer:
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        raise UnsupportedCheckpoint("tokenizer.ggml.add_space_prefix=true: not implemented")
    unknown = tokens[fields["tokenizer.ggml.unknown_token_id"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = list(_merges(vocabulary, fields["tokenizer.ggml.scores"], kinds))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, fuse_unk=True, unk_token=unknown, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _merges(
    vocabulary: Mapping[str, int], scores: list[float], kinds: list[int]
) -> Iterator[tuple[str, str]]:
    """Every way to form a piece from two others, likeliest piece first; control tokens never take part."""
    pieces = {
        token: index for token, index in vocabulary.items() if kinds[index] not in (_CONTROL, _USER_DEFINED)
    }
    found: list[tuple[float, int, int, str, str]] = []
    for piece, index in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                found.append((scores[index], len(left), len(right), left, right))
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return ((left, right) for *_, left, right in found)


def _ends(fields: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a text and that end a turn."""
    ends = [fields["tokenizer.ggml.eos_token_id"]]
    turn = tokenizer.token_to_id("<end_of_turn>")
    return ends if turn is None or turn in ends else [*ends, turn]


def _tokenizer_config(fields: Mapping[str, Any]) -> dict[str, object]:
    tokens = fields["tokenizer.ggml.tokens"]
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ):
        if (index := fields.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[name] = tokens[index]
    template = fields.get("tokenizer.chat_template") or (_TURNS if "<start_of_turn>" in tokens else None)
    if template:
        config["chat_template"] = template
    return config


def main(argv: list[str]) -> int:
    file, directory, *kind = argv
    try:
        convert(Path(file), Path(directory), dtype=getattr(torch, kind[0]) if kind else torch.float32)
    except AgitoError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
