"""A mixture of experts on both engines against a slow reference in NumPy, which goes from token to token."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings
from homespun.engine.mlx import mixture as of_mlx
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import mixture as of_torch
from homespun.engine.torch.engine import TorchEngine
from tests.reference import QWEN3_MOE, random_batch, random_weights, relative_error

Doubles = npt.NDArray[np.float64]
Gradients = dict[str, Doubles]

SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
AUX, Z = 0.3, 0.07
WITH_BOTH = {"aux_loss": AUX, "z_loss": Z}
FREE = dataclasses.replace(QWEN3_MOE, experts=5, experts_per_token=3, d_expert=40)
CONFIGS = {"two of six": QWEN3_MOE, "three of five": FREE}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
TOLERANCE = 1e-5
TOKENS = 40

Kind = Callable[[ModelConfig, EngineOptions], Engine]
ENGINES = pytest.mark.parametrize("kind", [TorchEngine, MlxEngine], ids=["torch", "mlx"])


def matrices(config: ModelConfig) -> Gradients:
    c, rng = config, np.random.default_rng(1)
    shapes = {
        "gate": (c.experts, c.d_model),
        "gate_up": (c.experts, 2 * c.d_expert, c.d_model),
        "down": (c.experts, c.d_model, c.d_expert),
        "x": (TOKENS, c.d_model),
        "upstream": (TOKENS, c.d_model),
    }
    made = {name: 0.2 * rng.standard_normal(shape) for name, shape in shapes.items()}
    return made | {"x": 5 * made["x"]}


def by_token(config: ModelConfig, m: Gradients) -> Gradients:
    """Output and gradients of `sum(upstream * y) + AUX * balance + Z * z`, one token after the other."""
    c, n = config, len(m["x"])
    gradients = {name: np.zeros_like(m[name]) for name in ("gate", "gate_up", "down", "x")}
    y, chosen = np.zeros_like(m["x"]), np.zeros((n, c.experts_per_token), int)
    probabilities, log_totals = np.zeros((n, c.experts)), np.zeros(n)
    slopes = np.zeros((n, c.experts))  # of the logits
    for t, x in enumerate(m["x"]):
        logits = m["gate"] @ x
        log_totals[t] = np.log(np.exp(logits).sum())
        p = probabilities[t] = np.exp(logits - log_totals[t])
        chosen[t] = np.argsort(-p)[: c.experts_per_token]
        weights = p[chosen[t]] / p[chosen[t]].sum()
        of_weight = np.zeros(c.experts_per_token)
        for place, (e, weight) in enumerate(zip(chosen[t], weights, strict=True)):
            gate, up = np.split(m["gate_up"][e] @ x, 2)
            sigmoid = 1 / (1 + np.exp(-gate))
            inner = gate * sigmoid * up
            out = m["down"][e] @ inner
            y[t] += weight * out
            of_weight[place] = m["upstream"][t] @ out
            of_out = weight * m["upstream"][t]
            gradients["down"][e] += np.outer(of_out, inner)
            of_inner = m["down"][e].T @ of_out
            of_silu = sigmoid * (1 + gate * (1 - sigmoid))
            of_h = np.concatenate((of_inner * up * of_silu, of_inner * gate * sigmoid))
            gradients["gate_up"][e] += np.outer(of_h, x)
            gradients["x"][t] += m["gate_up"][e].T @ of_h
        # The chosen weights are a softmax of the chosen logits.
        slopes[t][chosen[t]] += weights * (of_weight - weights @ of_weight)
    tokens = np.bincount(chosen.ravel(), minlength=c.experts)
    for t, p in enumerate(probabilities):
        of_p = AUX * c.experts * (tokens / n) / n
        slopes[t] += p * (of_p - p @ of_p) + Z * 2 * log_totals[t] / n * p
        gradients["gate"] += np.outer(slopes[t], m["x"][t])
        gradients["x"][t] += m["gate"].T @ slopes[t]
    balance = c.experts * (tokens / n) @ probabilities.mean(0)
    entropy = -(probabilities * np.log(probabilities)).sum(-1).mean()
    use = [balance, np.square(log_totals).mean(), entropy, *tokens / tokens.sum()]
    return {"y": y, "use": np.array(use), **gradients}


def by_torch(config: ModelConfig, m: Gradients) -> Gradients:
    mixture = of_torch.Mixture(config)
    with torch.no_grad():
        mixture.gate.weight.copy_(torch.from_numpy(m["gate"]))
        mixture.experts.gate_up_proj.copy_(torch.from_numpy(m["gate_up"]))
        mixture.experts.down_proj.copy_(torch.from_numpy(m["down"]))
    x = torch.from_numpy(m["x"]).float().requires_grad_()
    y, use = mixture(x.view(2, -1, config.d_model))
    y = y.flatten(0, 1)
    assert use is not None
    upstream = torch.from_numpy(m["upstream"]).float()
    ((y * upstream).sum() + AUX * use[0] + Z * use[1]).backward()
    tensors = {
        "gate": mixture.gate.weight.grad,
        "gate_up": mixture.experts.gate_up_proj.grad,
        "down": mixture.experts.down_proj.grad,
        "x": x.grad,
        "y": y.detach(),
        "use": use.detach(),
    }
    return {name: np.zeros(1) if t is None else t.double().numpy() for name, t in tensors.items()}


def by_mlx(config: ModelConfig, m: Gradients) -> Gradients:
    arrays = {name: mx.array(values.astype(np.float32)) for name, values in m.items()}

    def total(gate: mx.array, gate_up: mx.array, down: mx.array, x: mx.array) -> Any:
        mixture = of_mlx.Mixture(config)
        mixture.gate.weight = gate
        mixture.experts.gate_up_proj, mixture.experts.down_proj = gate_up, down
        y, use = mixture(x.reshape(2, -1, config.d_model))
        y = y.flatten(0, 1)
        return (y * arrays["upstream"]).sum() + AUX * use[0] + Z * use[1], y, use

    names = ("gate", "gate_up", "down", "x")
    (_, y, use), gradients = mx.value_and_grad(total, argnums=(0, 1, 2, 3))(
        *(arrays[name] for name in names)
    )
    found = dict(zip(names, gradients, strict=True)) | {"y": y, "use": use}
    return {name: np.array(values).astype(np.float64) for name, values in found.items()}


BY_ENGINE = pytest.mark.parametrize("compute", [by_torch, by_mlx], ids=["torch", "mlx"])


def worst(config: ModelConfig, compute: Callable[[ModelConfig, Gradients], Gradients]) -> float:
    m = matrices(config)
    expected, found = by_token(config, m), compute(config, m)
    return max(relative_error(found[name], values) for name, values in expected.items())


@EACH
@BY_ENGINE
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens(
    config: ModelConfig, compute: Callable[[ModelConfig, Gradients], Gradients]
) -> None:
    assert worst(config, compute) < TOLERANCE


def test_experts_without_a_token_have_no_gradient() -> None:
    config = dataclasses.replace(QWEN3_MOE, experts=64)
    for compute in (by_torch, by_mlx):
        assert worst(config, compute) < TOLERANCE
        found = compute(config, matrices(config))
        unused = found["use"][3:] == 0
        assert unused.any()
        assert not found["gate_up"][unused].any()
        assert not found["down"][unused].any()


@EACH
def test_one_token_alone_is_computed_from_its_experts_only(config: ModelConfig) -> None:
    m = matrices(config)
    expected = by_token(config, m)["y"]
    mixture = of_torch.Mixture(config)
    with torch.no_grad():
        mixture.gate.weight.copy_(torch.from_numpy(m["gate"]))
        mixture.experts.gate_up_proj.copy_(torch.from_numpy(m["gate_up"]))
        mixture.experts.down_proj.copy_(torch.from_numpy(m["down"]))
        used = by_token(config, {**m, "x": m["x"][:1], "upstream": m["upstream"][:1]})["use"][3:]
        mixture.experts.gate_up_proj[torch.from_numpy(used == 0)] = torch.nan
        y, _ = mixture(torch.from_numpy(m["x"][:1]).float().unsqueeze(0))
    assert relative_error(y[0], expected[:1]) < TOLERANCE


def test_one_token_alone_is_computed_in_bfloat16() -> None:
    """Outside decoding, the weights are float32."""
    tokens = np.array([[5]], np.int32)
    exact = engine(TorchEngine, QWEN3_MOE).logits(tokens)
    rounded = engine(TorchEngine, QWEN3_MOE, precision="bfloat16").logits(tokens)
    assert relative_error(rounded.astype(np.float64), exact.astype(np.float64)) < 0.1


@EACH
def test_the_balance_loss_is_that_of_transformers(config: ModelConfig) -> None:
    m = matrices(config)
    logits = torch.from_numpy(m["x"] @ m["gate"].T)
    theirs = load_balancing_loss_func((logits,), config.experts, config.experts_per_token)
    assert by_token(config, m)["use"][0] == pytest.approx(float(theirs), rel=1e-6)


def engine(kind: Kind, config: ModelConfig, **options: Any) -> Engine:
    chosen = {"precision": "float32", "threads": 1} | options
    made = kind(config, EngineOptions(optimizer=SETTINGS, **chosen))
    made.load(random_weights(config).items())
    return made


def router_gradients(kind: Kind, batches: list[Batch], **options: Any) -> dict[str, Doubles]:
    gradients = engine(kind, QWEN3_MOE, **options).gradients(batches)
    return {name: g.astype(np.float64) for name, g in gradients if name.endswith("mlp.gate.weight")}


@ENGINES
@pytest.mark.parametrize("loss", WITH_BOTH)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_the_gradient_of_a_router_loss_alone_is_its_finite_difference(
    kind: Kind, loss: str, checkpointing: bool
) -> None:
    batches = [random_batch(QWEN3_MOE, rows=2, seed=seed) for seed in (1, 2)]
    factor = 10.0
    plain = router_gradients(kind, batches)
    whole = router_gradients(
        kind, batches, **{loss: factor, "gradient_checkpointing": checkpointing}
    )
    start = random_weights(QWEN3_MOE)
    for name, gradient in whole.items():
        alone = gradient - plain[name]
        length = float(np.linalg.norm(alone))
        assert length > 1e-3
        direction = alone / length
        values = []
        for sign in (1, -1):
            moved = engine(kind, QWEN3_MOE)
            weight = (start[name] + sign * 2e-4 * direction).astype(np.float32)
            moved.load((start | {name: weight}).items())
            result = moved.train_step(batches, {"adamw": 0.0, "muon": 0.0}, 0).result()
            kinds = {"aux_loss": "balance_loss", "z_loss": "z_loss"}
            values.append(factor * sum(getattr(r, kinds[loss]) for r in result.routers))
        assert (values[0] - values[1]) / 4e-4 == pytest.approx(length, rel=0.02)


@ENGINES
def test_micro_batches_have_the_losses_of_their_routers_by_their_targets(kind: Kind) -> None:
    small, large = random_batch(QWEN3_MOE, rows=1), random_batch(QWEN3_MOE, rows=3, seed=1)
    both = router_gradients(kind, [small, large], **WITH_BOTH)
    apart = [router_gradients(kind, [batch], **WITH_BOTH) for batch in (small, large)]
    for name, gradient in both.items():
        assert relative_error(gradient, 0.25 * apart[0][name] + 0.75 * apart[1][name]) < TOLERANCE


@ENGINES
def test_a_step_reports_how_its_routers_spread_the_tokens(kind: Kind) -> None:
    config = dataclasses.replace(QWEN3_MOE, n_layers=3, dense_layers=1)
    batches = [random_batch(config, rows=rows, seed=rows) for rows in (1, 3)]
    result = engine(kind, config).train_step(batches, {"adamw": 0.0, "muon": 0.0}, 0).result()
    plain = engine(kind, config, **WITH_BOTH).train_step(batches, {"adamw": 0.0, "muon": 0.0}, 0)
    assert plain.result().loss == result.loss
    assert plain.result().routers == result.routers
    assert len(result.routers) == 2
    for router in result.routers:
        assert len(router.load) == config.experts
        assert sum(router.load) == pytest.approx(1)
        assert 0 < router.entropy < np.log(config.experts)
        assert router.balance_loss > config.experts_per_token * 0.9
        assert router.z_loss > 0


@BY_ENGINE
def test_the_entropy_of_a_collapsed_router_is_not_negative(compute: Any) -> None:
    """By rounding alone it would be: a position with a number below 0 is refused."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = (rng.normal(100, 1, (1, 6)) + 16 * np.eye(6)[:1]).astype(np.float32)
        if compute is by_torch:
            x = torch.from_numpy(logits)
            ends = torch.arange(1, 7, dtype=torch.int32)
            use = of_torch.router_use(x, x.softmax(-1), ends).numpy()
        else:
            y = mx.array(logits)
            use = np.array(of_mlx.router_use(y, mx.softmax(y, axis=-1), mx.arange(6)))
        assert use[2] >= 0


@ENGINES
def test_the_router_computes_in_float32_in_every_precision(kind: Kind) -> None:
    """Weights and inputs that bfloat16 cannot tell apart choose different experts."""
    x = np.zeros((1, 1, 8), np.float32)
    x[..., 0] = 1.0
    weight = np.zeros((2, 8), np.float32)
    weight[:, 0] = 1.0, 1.0 + 2.0**-12
    config = dataclasses.replace(QWEN3_MOE, d_model=8, experts=2, experts_per_token=1)
    if kind is TorchEngine:
        router = of_torch.Router(config)
        with torch.no_grad():
            router.weight.copy_(torch.from_numpy(weight))
            logits = router(torch.from_numpy(x[0]).bfloat16()).numpy()
    else:
        other = of_mlx.Router(config)
        other.weight = mx.array(weight)
        logits = np.array(other(mx.array(x[0]).astype(mx.bfloat16)))
    assert logits.dtype == np.float32
    assert logits[0, 1] > logits[0, 0]


@ENGINES
def test_a_decoder_in_bfloat16_keeps_its_router_in_float32(kind: Kind) -> None:
    made = engine(kind, QWEN3_MOE, precision="bfloat16")
    model = made.decoder(1, 4).model  # type: ignore[attr-defined]
    mlp = model.model.layers[0].mlp
    assert "float32" in str(mlp.gate.weight.dtype)
    assert "bfloat16" in str(mlp.experts.down_proj.dtype)


@ENGINES
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_many_steps_of_a_mixture_learn(kind: Kind, precision: str) -> None:
    made = engine(kind, QWEN3_MOE, precision=precision, aux_loss=0.01, z_loss=0.001)
    batch = random_batch(QWEN3_MOE, rows=4)
    losses = [
        made.train_step([batch], {"adamw": 3e-3, "muon": 0.02}, step).result().loss
        for step in range(30)
    ]
    assert losses[-1] < 0.7 * losses[0]
