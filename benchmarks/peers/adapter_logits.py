"""Loads a base model with an adapter by `peft`, and a folder with everything merged by `transformers`; prints
by how much their log-probabilities differ at the most, and how far the adapter moves the base.

    PYTHON adapter_logits.py ADAPTER FOLDER

PYTHON has `peft` and `transformers`. Float32, on the processor.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The parts val and lim run in a line: each needs the result of the one before it. Start val first."


def main() -> None:
    adapter, folder = sys.argv[1:]
    named = json.loads((Path(adapter) / "adapter_config.json").read_text())["base_model_name_or_path"]
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(named, dtype=torch.float32)
    with torch.no_grad():
        was = base(ids).logits.log_softmax(-1)
        adapted = PeftModel.from_pretrained(base, adapter)(ids).logits.log_softmax(-1)
        merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits.log_softmax(-1)
    print(
        json.dumps(
            {
                "apart": float((adapted - merged).abs().max()),
                "moved": float((adapted - was).abs().max()),
            }
        )
    )


if __name__ == "__main__":
    main()
