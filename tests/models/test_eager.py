"""A worker does without torch's compiler, and still has it when something asks for it."""

from __future__ import annotations

import subprocess
import sys

import torch

from agito.models import Decoder, DecoderConfig

CONFIG = DecoderConfig(vocab_size=300, hidden_size=32, num_layers=2)
LEARN = """
import sys, torch
from agito.models import Decoder, DecoderConfig
from agito.models.cached import check_weights
from agito.models.eager import without_compiler
if {spared}:
    without_compiler()
config = DecoderConfig(vocab_size=300, hidden_size=32, num_layers=2)
model = Decoder(config, seed=0)
check_weights(config, dict(model.state_dict()))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
for _ in range(2):
    logits = model(torch.arange(8), [8])
    torch.autograd.backward([logits], [logits.detach()])
    optimizer.step()
    optimizer.zero_grad()
again = model.logits(model.extend(torch.arange(8), [8], (), 0)[0])  # computes its activations again
torch.autograd.backward([again], [logits.detach()])
optimizer.step()
print("sympy" in sys.modules)
torch.utils.checkpoint.checkpoint(torch.sin, torch.ones(1), use_reentrant=False)  # asks for it
print("sympy" in sys.modules)
print(float(sum(each.double().sum() for each in model.parameters())).hex())
"""


def test_a_process_that_learns_loads_no_compiler_until_it_is_asked_for_and_learns_the_same() -> None:
    spared, plain = (
        subprocess.run(
            [sys.executable, "-c", LEARN.format(spared=spared)],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout.splitlines()
        for spared in (True, False)
    )
    assert (spared[:2], plain[:2]) == (["False", "True"], ["True", "True"])
    assert spared[2] == plain[2]


def test_a_network_that_a_checkpoint_will_fill_draws_no_random_weights() -> None:
    before = torch.get_rng_state()
    Decoder(CONFIG, seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert Decoder(CONFIG, seed=0).head_weight.std() > 0
