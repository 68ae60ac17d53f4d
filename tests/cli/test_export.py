"""`agito export`: a trained policy as a folder that other programs load and serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Agito, HereIn
from tests.cli.test_prompts import small_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from agito.models import (
    LoraConfig,
    adapt,
    load,
    load_adapter,
    load_weights,
    merged_weights,
    save_adapter,
)
from agito.render import read_chat

ADVISED = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def adapter(home: Path) -> Path:
    """Of a model whose publisher advised how to sample from it."""
    base = small_model(home / "base")
    (base / "manifest.json").unlink()  # somebody else's folder has none
    (base / "generation_config.json").write_text(json.dumps(ADVISED | {"eos_token_id": 3}))
    model = adapt(load(base), LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    folder = home / "adapter"
    save_adapter(model, LoraConfig(rank=2), folder, base=str(base), extra=read_chat(base).files())
    return folder


def test_an_adapter_is_exported_merged_with_its_tokenizer_its_template_and_no_advice_to_cut_off(
    agito_here: Agito, tmp_path: Path
) -> None:
    source, out = adapter(tmp_path), tmp_path / "out" / "mine"
    done = agito_here("export", str(source), str(out))
    assert done.stdout == f"{out}\n"
    assert f"vllm serve {out} --enable-auto-tool-choice --tool-call-parser hermes" in done.stderr
    model = load(tmp_path / "base", dtype=torch.bfloat16)  # in which a pre-trained model acts
    load_adapter(model, source)
    merged, found = merged_weights(model), load_weights(out)
    assert set(found) == set(load_weights(tmp_path / "base"))
    assert all(torch.equal(found[name], merged[name]) for name in found)
    ours = load(out, dtype=torch.float32)(IDS[0], [IDS.shape[1]])
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.allclose(theirs(IDS).logits[0], ours, atol=1e-5)
    renderer, tokenizer = read_chat(source), AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == renderer.chat_template == read_chat(out).chat_template
    said = json.loads((out / "generation_config.json").read_text())
    assert (said["temperature"], said["top_k"], said["top_p"]) == (1.0, 0, 1.0)
    assert "repetition_penalty" not in said
    assert said["eos_token_id"] == list(renderer.stop_ids) and 3 in renderer.stop_ids
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize("harm", ["the weights", "the base"])
def test_an_export_that_fails_leaves_no_folder(agito_here: Agito, tmp_path: Path, harm: str) -> None:
    source = adapter(tmp_path)
    if harm == "the weights":
        (source / "adapter_model.safetensors").write_bytes(b"x" * 99)
        done = agito_here("export", str(source), "mine", expect=5)
        assert "its hash is not the one in manifest.json" in done.stderr
    else:
        (tmp_path / "base").rename(tmp_path / "moved")
        assert "is not there: put it back" in agito_here("export", str(source), "mine", expect=4).stderr
    assert sorted(path.name for path in tmp_path.iterdir() if "mine" in path.name) == []


def test_a_folder_that_is_there_is_left_alone(agito_here: Agito, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = agito_here("export", str(adapter(tmp_path)), "mine", expect=4)
    assert "it is there already" in done.stderr and not list((tmp_path / "mine").iterdir())


def test_a_run_from_random_weights_is_exported_too(coin_home: Path, here_in: HereIn, tmp_path: Path) -> None:
    here_in(coin_home)("export", "runs/coin", str(tmp_path / "mine"))
    ours = load(coin_home / "runs/coin/checkpoints/final")(IDS[0], [IDS.shape[1]])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "mine", dtype=torch.float32)
    assert torch.allclose(theirs(IDS).logits[0], ours, atol=1e-5)
