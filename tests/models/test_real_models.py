"""Real weights against the real transformers. AGITO_MODELS names the folder that `agito models
get` filled.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agito.models import CachedDecoder, NativeDecoder, is_supported, load, save
from agito.render import read_chat

FOLDER = Path(os.environ.get("AGITO_MODELS", "models"))
TEXT = "The capital of France is Paris. def f(x):\n    return x + 1\n\n" + " ".join(
    str(number * 37 % 101) for number in range(60)
)


@pytest.fixture(params=["smollm2-135m", "gemma3-270m"])
def folder(request: pytest.FixtureRequest) -> Path:
    found = FOLDER / request.param
    if not (found / "config.json").is_file():
        pytest.skip(f"needs {found}: agito models get {request.param}, and AGITO_MODELS if it is elsewhere")
    return found


@torch.inference_mode()
def test_logits_of_real_weights_equal_those_of_transformers_and_so_do_those_of_the_cache(
    folder: Path, tmp_path: Path
) -> None:
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids[None]).logits[0]
    ours = load(folder, dtype=torch.float32)
    torch.testing.assert_close(ours(ids, [len(ids)]), expected, atol=1e-4, rtol=0)
    cached = CachedDecoder(ours.config, slots=1, context=256, device=torch.device("cpu"), dtype=torch.float32)
    cached.load(ours.state_dict())
    cached.extend(ids[:150], [0], [0], [150])
    found = cached.extend(ids[150:-1], [0], [150], [len(ids) - 151])
    torch.testing.assert_close(found[0], expected[-2], atol=1e-4, rtol=0)
    save(ours, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids[None]).logits[0], expected, atol=0, rtol=0)


@torch.inference_mode()
def test_log_probabilities_of_compiled_code_on_real_weights_equal_those_of_transformers(folder: Path) -> None:
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"])
    expected = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        .eval()(ids[None])
        .logits[0]
        .log_softmax(-1)
    )
    ours = load(folder, dtype=torch.float32)
    for dtype, bound, mean in ((torch.float32, 1e-4, 2e-5), (torch.bfloat16, 0.2, 0.03)):
        if not is_supported(ours.config, torch.device("cpu"), dtype):
            pytest.skip("needs a C compiler (apt install gcc)")
        compiled = NativeDecoder(ours.config, slots=1, context=256, dtype=dtype)
        compiled.load(ours.state_dict())
        found = [compiled.extend(ids[:100], [0], [0], [100])[0]]
        for at in range(100, len(ids) - 1):
            found.append(compiled.decode(ids[at : at + 1], torch.tensor([0]), torch.tensor([at]))[0])
        chosen = torch.stack(found).log_softmax(-1).gather(1, ids[100:, None])
        differences = (chosen - expected[99:-1].gather(1, ids[100:, None])).abs()
        assert differences.max() < bound
        assert differences.mean() < mean


def test_the_models_own_template_is_rendered_as_transformers_renders_it(folder: Path) -> None:
    renderer, theirs = read_chat(folder), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    own = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    ours = theirs.apply_chat_template(
        messages,
        chat_template=renderer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert own == ours
