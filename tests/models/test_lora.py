"""Adapters: they learn alone, merge exactly, and go to peft and back."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agito.errors import CorruptCheckpoint
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import (
    Decoder,
    DecoderConfig,
    LoraConfig,
    UnsupportedCheckpoint,
    adapt,
    load,
    load_adapter,
    merged_weights,
    save,
    save_adapter,
)
from agito.models.compiler import FORWARD, is_built
from agito.models.config import PROJECTIONS
from agito.models.lora import LoraLinear, apart, dithered
from agito.models.native import NativeDecoder
from agito.protocols import SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineRequest, RowRequest
from agito.types import AttemptId, Sample, span

TINY = DecoderConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    family="llama",
    qk_norm=False,
)
WIDE = replace(TINY, hidden_size=128, intermediate_size=192)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
LORA = LoraConfig(rank=4, alpha=8)


def trained(config: LoraConfig = LORA) -> Decoder:
    """B away from zero."""
    model = adapt(Decoder(TINY, seed=1), config, seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def test_a_new_adapter_changes_nothing_and_is_all_that_learns() -> None:
    plain = Decoder(TINY, seed=1)
    model = adapt(Decoder(TINY, seed=1), LORA, seed=2)
    assert torch.equal(model(IDS, [11]), plain(IDS, [11]))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all(name.endswith(("lora_A", "lora_B")) for name in learning)
    again = dict(adapt(Decoder(TINY, seed=1), LORA, seed=2).named_parameters())
    assert all(torch.equal(parameter, again[name]) for name, parameter in model.named_parameters())


@torch.no_grad()
def test_merged_weights_compute_what_the_adapter_computes() -> None:
    model = trained()
    plain = Decoder(TINY, seed=None)
    plain.load_state_dict(merged_weights(model))
    torch.testing.assert_close(plain(IDS, [11]), model(IDS, [11]), atol=1e-4, rtol=0)
    assert (plain(IDS, [11]) - Decoder(TINY, seed=1)(IDS, [11])).abs().max() > 0.01


@pytest.mark.parametrize("size", [1e-5, 5e-5, 2e-4])
def test_in_bfloat16_what_an_adapter_adds_is_kept_on_the_whole(size: float) -> None:
    """Rounded to the nearest number, .14, .56 and .97 of it would be left."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(768, 576, generator=generator).mul(0.05).bfloat16()
    added = torch.randn(768, 4, generator=generator) @ torch.randn(4, 576, generator=generator) * size / 2
    merged, inputs = dithered(base.float() + added), torch.randn(64, 576, generator=generator)
    found, wanted = inputs @ (merged.float() - base.float()).T, inputs @ added.T
    assert float((found * wanted).sum() / wanted.square().sum()) == pytest.approx(1.0, abs=0.03)
    assert float((found - wanted).norm() / (inputs @ base.float().T).norm()) < 0.003, (
        "as much as bfloat16 rounds"
    )
    assert torch.equal(dithered(base.float() + added), merged), "the same every time"
    assert torch.equal(dithered(base.float()), base) and torch.equal(dithered(-base.float()), -base)


def kept(found: Tensor, wanted: Tensor) -> float:
    """How much of `wanted` is in `found`, and not beside it."""
    return float((found * wanted).sum() / wanted.square().sum())


@pytest.mark.parametrize("bias", [None, 0.3, 3.0])
@pytest.mark.parametrize("size", [1e-4, 3e-4])
@torch.no_grad()
def test_in_bfloat16_a_projection_adds_what_its_adapter_adds(size: float, bias: float | None) -> None:
    """Added to a sum that is rounded already, .29 and .64 of it would be left; to a bias, .09 and .32."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(576, 768, bias=bias is not None)
    plain.weight = torch.nn.Parameter(torch.randn(768, 576).mul(0.05).bfloat16())
    if bias is not None:
        plain.bias = torch.nn.Parameter(torch.randn(768).mul(bias).bfloat16())
    adapted = LoraLinear(plain, LORA)
    adapted.lora_A.normal_(std=0.05)
    adapted.lora_B.normal_(std=size)
    inputs = torch.randn(256, 576).bfloat16()
    exact = inputs.float() @ adapted.lora_A.T @ adapted.lora_B.T * adapted.scale
    base = inputs.float() @ plain.weight.float().T
    if plain.bias is not None:
        base += plain.bias.float()
    assert kept(adapted(inputs).float() - base, exact) == pytest.approx(1.0, abs=0.1)


@pytest.mark.skipif(not is_built(FORWARD), reason="needs a C compiler")
@pytest.mark.parametrize("targets", [PROJECTIONS, ("v_proj", "down_proj")], ids=["all", "two"])
@torch.no_grad()
def test_in_bfloat16_an_engine_adds_what_an_adapter_adds_and_forgets_the_one_before(
    targets: tuple[str, ...],
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(rank=4, alpha=8, targets=targets)
    exact = adapt(Decoder(WIDE, seed=1).bfloat16().float(), config, seed=2)
    rounded = adapt(Decoder(WIDE, seed=1).bfloat16(), config, seed=2)
    ids, networks = torch.randint(0, WIDE.vocab_size, (40,)), list[NativeDecoder]()
    for threads in (1, 2):
        networks.append(NativeDecoder(WIDE, slots=1, context=64, dtype=torch.bfloat16, threads=threads))
        networks[-1].load(apart(rounded)[0])
    base = exact(ids, [40])[-1]
    for draw in (1, 2):  # the second replaces the first
        for one, other in zip(exact.modules(), rounded.modules(), strict=True):
            if isinstance(one, LoraLinear) and isinstance(other, LoraLinear):
                one.lora_B.normal_(std=3e-3, generator=torch.Generator().manual_seed(draw))
                other.lora_B.copy_(one.lora_B)
        wanted, found = exact(ids, [40])[-1] - base, list[Tensor]()
        for network in networks:
            network.adapt({})
            without = network.extend(ids, [0], [0], [40])[0]
            network.adapt(apart(rounded)[1])
            found.append(network.extend(ids, [0], [0], [40])[0] - without)
        assert torch.equal(found[0], found[1]), "whatever the number of threads"
        assert kept(found[0], wanted) == pytest.approx(1.0, abs=0.15)


@pytest.mark.skipif(not is_built(FORWARD), reason="needs a C compiler")
@torch.no_grad()
def test_an_engine_writes_an_adapter_of_any_rank_within_its_own_memory() -> None:
    config = LoraConfig(rank=96, alpha=96)
    exact = adapt(Decoder(TINY, seed=1).bfloat16().float(), config, seed=2)
    for module in exact.modules():
        if isinstance(module, LoraLinear):
            module.lora_B.normal_(std=0.01, generator=torch.Generator().manual_seed(3))
    network = NativeDecoder(TINY, slots=1, context=64, dtype=torch.bfloat16)
    guarded = torch.full((1, 4 * network._scratch["packing"].numel()), 7.0)
    network._scratch["packing"] = guarded[:, : network._scratch["packing"].numel()]
    network.load(apart(exact)[0])
    base = network.extend(IDS, [0], [0], [11])[0]
    network.adapt(apart(exact)[1])
    assert (guarded[:, guarded.numel() // 4 :] == 7.0).all(), "nothing is written behind its room"
    wanted = exact(IDS, [11])[-1] - Decoder(TINY, seed=1).bfloat16().float()(IDS, [11])[-1]
    assert kept(network.extend(IDS, [0], [0], [11])[0] - base, wanted) == pytest.approx(1.0, abs=0.15)


def test_weights_are_rounded_where_they_are() -> None:
    assert dithered(torch.empty(4, 4, device="meta")).device.type == "meta"


def says(engine: EmbeddedEngine) -> tuple[list[int], list[float]]:
    """Ten tokens behind the same prompt, with the same seed."""
    request = SampleRequest(extend=array("i", IDS.tolist()), max_tokens=10, stop_ids=())
    engine.drop_all()
    (done,) = engine.advance(
        EngineRequest(requests=(RowRequest(key=1, seed=1, request=request),), steps=10)
    ).done
    assert done.sampled is not None
    return list(done.sampled.ids), list(done.sampled.logprobs)


def test_in_bfloat16_an_engine_has_the_adapter_of_its_version_and_none_after_plain_weights() -> None:
    model = adapt(Decoder(WIDE, seed=1).bfloat16(), LORA, seed=2)
    engine, said = EmbeddedEngine(model, rows=1, context=64), list[tuple[list[int], list[float]]]()
    for version in (1, 2):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, LoraLinear):
                    module.lora_B.normal_(std=0.2, generator=torch.Generator().manual_seed(version))
        engine.load_weights(model, version)
        said.append(says(engine))
        assert said[-1] == says(EmbeddedEngine(model, rows=1, context=64)), "as a new engine"
    assert said[0] != said[1]
    plain = Decoder(WIDE, seed=5).bfloat16()
    for weights in (plain, plain.state_dict()):
        engine.load_weights(weights, 3)
        assert says(engine) == says(EmbeddedEngine(plain, rows=1, context=64))
        engine.load_weights(model, 4)
        assert says(engine) == said[1], "the frozen weights are loaded again"


def test_an_engine_and_a_folder_are_given_the_adapter_too(tmp_path: Path) -> None:
    model = trained()
    save(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(IDS, [11]), model(IDS, [11]), atol=1e-4, rtol=0)
    engine = EmbeddedEngine(model, rows=2, context=32)
    row = RowRequest(
        key=1, seed=1, request=SampleRequest(extend=array("i", IDS.tolist()), max_tokens=1, stop_ids=())
    )
    (done,) = engine.advance(EngineRequest(requests=(row,), steps=1)).done
    assert done.sampled is not None
    expected = model(IDS, [11]).detach()[-1].log_softmax(-1)[done.sampled.ids[0]]
    assert done.sampled.logprobs[0] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [LORA, LoraConfig(rank=4, alpha=6, targets=("q_proj", "v_proj"), is_rank_stabilised=True)],
    ids=str,
)
# peft asks transformers by an old name
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@torch.no_grad()
def test_peft_computes_the_same_from_our_adapter_and_we_from_its_own(
    config: LoraConfig, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="needs the package peft")
    from transformers import AutoModelForCausalLM

    model = trained(config)
    save(Decoder(TINY, seed=1), tmp_path / "base")
    save_adapter(model, config, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(theirs(IDS[None]).logits[0], model(IDS, [11]), atol=1e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "base")
    assert load_adapter(ours, tmp_path / "theirs") == config
    torch.testing.assert_close(ours(IDS, [11]), model(IDS, [11]), atol=1e-6, rtol=0)


def test_an_adapter_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = trained()
    save_adapter(model, LORA, tmp_path, base="x")
    again = Decoder(TINY, seed=1)
    assert load_adapter(again, tmp_path) == LORA
    expected = dict(model.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in again.named_parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 2}},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"alora_invocation_tokens": [1]},
        {"use_qalora": True},
    ],
    ids=str,
)
def test_another_kind_of_adapter_is_refused_by_the_name_of_its_field(
    change: dict[str, object], tmp_path: Path
) -> None:
    save_adapter(trained(), LORA, tmp_path, base="x")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedCheckpoint, match=next(iter(change))):
        load_adapter(Decoder(TINY, seed=1), tmp_path)


def test_an_adapter_of_another_model_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    save_adapter(trained(), LORA, tmp_path, base="x")
    other = Decoder(DecoderConfig(vocab_size=97, hidden_size=48, num_layers=2), seed=1)
    with pytest.raises(CorruptCheckpoint, match="do not belong together"):
        load_adapter(other, tmp_path)
    assert not any("lora" in name for name, _ in other.named_parameters())


@pytest.mark.parametrize(
    "make",
    [lambda: LoraConfig(rank=0), lambda: LoraConfig(targets=("lm_head",)), lambda: LoraConfig(targets=())],
)
def test_an_impossible_adapter_is_refused_by_name(make) -> None:
    with pytest.raises(ValueError, match=r"rank|targets"):
        make()


def test_a_trainer_of_an_adapter_lowers_the_loss_and_leaves_the_base_as_it_was() -> None:
    model = adapt(Decoder(TINY, seed=1), LORA, seed=2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = LocalTrainer(model, TrainerConfig())
    trainer.begin_phase("sft", 60)
    sample = Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=array("i", IDS.tolist()),
        logprobs=array("f", [math.nan] * 11),
        trainable=bytes([0] + [1] * 10),
        advantages=array("f", [0.0] + [1.0] * 10),
        versions=span(0, 11),
    )
    losses = [trainer.sft_step([sample]).values["sft/loss_nats"] for _ in range(60)]
    assert losses[-1] < losses[0] - 1  # nats
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert changed and all(name.endswith(("lora_A", "lora_B")) for name in changed)
