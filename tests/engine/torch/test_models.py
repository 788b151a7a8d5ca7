"""The models as modules: their names, parity with `transformers`, auxiliary losses, and compilation."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from homespun.architectures.families import FAMILIES, parameters
from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch.engine import TorchEngine
from homespun.engine.torch.models import gpt2, model_class
from homespun.errors import UserError
from tests.reference import (
    GPT2,
    LLAMA,
    QWEN3,
    QWEN3_MOE,
    HuggingFace,
    random_batch,
    random_weights,
    relative_error,
)

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
CONFIGS = {config.architecture: config for config in (GPT2, LLAMA, QWEN3, QWEN3_MOE)}
EACH = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def shaped(family: str, tied: bool) -> ModelConfig:
    return dataclasses.replace(CONFIGS[family], tie_embeddings=tied)


def engine(config: ModelConfig, **options: Any) -> TorchEngine:
    made = TorchEngine(
        config, dataclasses.replace(EngineOptions(SETTINGS, "float32", threads=2), **options)
    )
    made.load(random_weights(config).items())
    return made


@EACH
@EACH_FAMILY
def test_parameters_are_those_of_the_family_in_its_order(family: str, tied: bool) -> None:
    config = shaped(family, tied)
    model = model_class(family)(config, torch.float32)
    stated = [(p.name, p.shape) for p in parameters(config)]
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == stated
    assert list(model.state_dict()) == [name for name, _ in stated]


def test_an_unknown_family_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="'qwen4' is unknown"):
        model_class("qwen4")


@EACH
@EACH_FAMILY
def test_logits_and_gradients_are_those_of_transformers(family: str, tied: bool) -> None:
    config = shaped(family, tied)
    batch = random_batch(config)
    ours, theirs = engine(config), HuggingFace(config, random_weights(config))
    assert relative_error(ours.logits(batch.inputs), theirs.logits(batch)) < 1e-5
    gradients = dict(ours.gradients([batch]))
    for name, reference in theirs.gradients(batch):
        assert relative_error(gradients.pop(name), reference) < 1e-5, name
    assert not gradients


class AuxiliaryBlock(gpt2.GPT2Block):
    """A block that also returns the mean square of its output as the balance loss of a router."""

    def forward(self, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, _ = super().forward(*inputs)
        square = x.square().mean()
        return x, torch.stack((square, *torch.ones(3)))


def split(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(batch.inputs[i : i + size], batch.targets[i : i + size])
        for i in range(0, len(batch.inputs), size)
    ]


@pytest.fixture
def auxiliary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2, "GPT2Block", AuxiliaryBlock)


AUXILIARY = 0.5


def step(config: ModelConfig, microbatches: list[Batch], **options: Any) -> tuple[float, float]:
    """The loss of a step, and what it minimises: the loss with that of the routers."""
    rates = {"adamw": 1e-3}
    made = engine(config, aux_loss=AUXILIARY, **options)
    result = made.train_step(microbatches, rates, 0).result()
    return result.loss, result.loss + AUXILIARY * sum(r.balance_loss for r in result.routers)


def test_an_auxiliary_loss_is_reported_beside_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(GPT2)
    plain, same = step(GPT2, [batch])
    assert plain == same
    monkeypatch.setattr(gpt2, "GPT2Block", AuxiliaryBlock)
    inner = engine(GPT2)
    with torch.no_grad():
        _, uses = inner.model.hidden(torch.from_numpy(batch.inputs).long())
    assert uses is not None
    loss, minimised = step(GPT2, [batch])
    assert loss == pytest.approx(plain, rel=1e-6)
    assert minimised == pytest.approx(plain + AUXILIARY * uses[:, 0].sum().item(), rel=1e-6)
    # An evaluation leaves out the auxiliary loss.
    assert inner.loss(batch)[0] / batch.n_targets == pytest.approx(plain, rel=1e-6)


@pytest.mark.usefixtures("auxiliary")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_an_auxiliary_loss_does_not_depend_on_accumulation(checkpointing: bool) -> None:
    batch = random_batch(GPT2, rows=8)
    options = {"gradient_checkpointing": checkpointing}
    ours = engine(GPT2, aux_loss=AUXILIARY, **options)
    whole, losses = dict(ours.gradients([batch])), step(GPT2, [batch], **options)
    for size in (4, 1):
        assert step(GPT2, split(batch, size), **options) == pytest.approx(losses, rel=1e-6)
        for name, gradient in ours.gradients(split(batch, size)):
            assert relative_error(gradient, whole[name]) < 1e-5, name


@pytest.mark.usefixtures("auxiliary")
def test_a_micro_batch_counts_by_its_targets() -> None:
    """The auxiliary loss of rows without a target has no weight."""
    first, second = split(random_batch(GPT2, rows=4), 2)
    second.targets[:] = IGNORED
    assert step(GPT2, [first, second]) == pytest.approx(step(GPT2, [first]), rel=1e-6)


@pytest.mark.usefixtures("auxiliary")
def test_gradients_with_an_auxiliary_loss_are_finite_differences() -> None:
    batch = random_batch(GPT2, rows=4)
    microbatches = split(batch, 2)
    gradients = dict(engine(GPT2, aux_loss=AUXILIARY).gradients(microbatches))
    start = random_weights(GPT2)
    rng = np.random.default_rng(0)
    for name in ("transformer.h.0.attn.c_proj.bias", "transformer.h.1.mlp.c_fc.weight"):
        direction = gradients[name] + 0.1 * rng.standard_normal(gradients[name].shape)
        direction /= np.linalg.norm(direction)
        losses = []
        for sign in (1, -1):
            moved = engine(GPT2, aux_loss=AUXILIARY)
            changed = start | {name: (start[name] + sign * 0.05 * direction).astype(np.float32)}
            moved.load(changed.items())
            result = moved.train_step(microbatches, {"adamw": 0.0}, 0).result()
            auxiliary = sum(router.balance_loss for router in result.routers)
            losses.append(result.loss + AUXILIARY * auxiliary)
        slope = (losses[0] - losses[1]) / 0.1
        assert slope == pytest.approx(float((gradients[name] * direction).sum()), rel=1e-2)


@pytest.mark.filterwarnings("ignore")  # from inside the compiler
@EACH_FAMILY
def test_all_blocks_share_one_compilation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *given, **named: original(*given, **named, backend=backend)
    )
    torch._dynamo.reset()
    config = dataclasses.replace(CONFIGS[family], n_layers=5)
    made = engine(config, compiled=True, dropout=0.1, document_mark=3)
    batch = random_batch(config)
    for step in range(3):
        made.train_step([batch, batch], {"adamw": 1e-3}, step).result()
    made.decoder(3, 20).prefill(batch.inputs[:, :9])  # not compiled, since prompts differ in length
    assert len(compiled) == 2  # the block and the loss of the head
