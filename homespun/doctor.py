"""Checks the engines of this machine: whether they agree with NumPy and with each other, and how fast they train.

It is the first command on a new machine. Reports of faults should include its output, so it contains nothing personal.
"""

import dataclasses
import itertools
import math
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from homespun.architectures.base import Family, Parameter
from homespun.architectures.families import FAMILIES, count_parameters, parameters
from homespun.architectures.presets import preset, shaped
from homespun.config import EngineName, ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions, Floats, OptimizerSettings, Reader
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.numpy.optimizer import Doubles, adamw, muon
from homespun.planning.estimate import Computing, expected_seconds_per_step, training_memory
from homespun.terminal import Say

Weights = dict[str, Floats]

# Limits where only rounding differs:
MAX_ERROR = 1e-5
"""Relative error of one computation."""
MAX_COSINE_DISTANCE = 1e-6
"""1 - cosine of two gradients."""
MAX_ERROR_AFTER_STEPS = 1e-3
"""Relative error after some training steps."""
# Limits where the method or the precision adds an error:
MAX_SLOPE_ERROR = 2e-2
"""Relative error of a slope computed from two float32 losses."""
MAX_HALF_ERROR = 3e-2
"""Relative difference of a loss in 16 bits to that in float32."""

STEPS = 10
SETTINGS = {
    name: OptimizerSettings(
        name, weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0, eps=1e-4
    )
    for name in ("adamw", "muon")
}
"""Some gradients are zero except for rounding, such as that of a key's bias: the large eps keeps them from moving
weights."""
RATES = {"adamw": {"adamw": 1e-2}, "muon": {"adamw": 0.0, "muon": 2e-2}}
"""Learning rates for each optimizer. With Muon, AdamW's rate is zero, so that only Muon moves weights."""

MAX_STEP_SECONDS = 15.0
"""A shape whose step would take longer is not timed."""

M1_MAX = """For comparison, an M1 Max by this project's specification, not measured by us:
5,000 to 50,000 tokens/s by size; with tiny as above 30 to 60 minutes for 10,000 steps, which is
23,000 to 46,000 tokens/s, in 2 to 3 GB."""


@dataclasses.dataclass(frozen=True)
class Check:
    """An error and its limit."""

    name: str
    found: float
    at_most: float

    @property
    def passed(self) -> bool:
        return self.found <= self.at_most  # False for nan

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict}  {self.name:<58} {self.found:.1e}  at most {self.at_most:.0e}"


def tiny_model(family: Family) -> ModelConfig:
    """A model small enough for quick checks, with grouped key/value heads where the family has them."""
    shape = {"vocab_size": 97, "seq_len": 24, "n_layers": 2, "d_model": 32, "n_heads": 4}
    base = family.default_shape(n_layers=2, d_model=64, n_heads=4)
    return shaped(base, {**shape, "n_kv_heads": 2 if family.has_grouped_heads else 4})


def examine_engines(say: Say) -> bool:
    """Print the engines of this machine, whether they compute correctly, and how fast.

    Returns: False if a check failed.
    """
    import homespun

    names = select.available()
    say(f"version     homespun {homespun.__version__}, doctor")
    release = platform.mac_ver()[0] or platform.release().partition("-")[0]
    say(f"system      {platform.system()} {release}, {platform.machine()}")
    say(f"python      {platform.python_version()}, numpy {np.__version__}")
    say(f"engines     {', '.join(names)}")
    say(
        "\nDoes it compute correctly? Tiny models with random weights, in float32 unless another precision is named:"
    )
    checks = []
    for check in _checks(names):
        say(str(check))
        checks.append(check)
    for name in names:
        say(f"\nHow fast is {name}? Training with AdamW:")
        for line in training_speed(name):
            say(line)
    say(f"\n{M1_MAX}\n")
    failed = sum(not check.passed for check in checks)
    if failed:
        say(
            f"FAIL: {failed} of {len(checks)} checks. Do not trust what is trained here; report this output."
        )
    else:
        say(f"PASS: all {len(checks)} checks.")
    return not failed


def _checks(names: Iterable[EngineName]) -> Iterator[Check]:
    """Each engine against NumPy and against each other one, with a tiny model of each family."""
    models = {family.name: tiny_model(family) for family in FAMILIES.values()}
    for name, (family_name, config) in itertools.product(names, models.items()):
        checks = _against_numpy(name, config)
        yield from _labelled(f"{name}, {family_name}:", checks)
    for (one, other), (family_name, config) in itertools.product(
        itertools.combinations(names, 2), models.items()
    ):
        checks = _against_each_other(one, other, config)
        yield from _labelled(f"{one} and {other}, {family_name}:", checks)


def _labelled(label: str, checks: Iterable[Check]) -> Iterator[Check]:
    """The checks with a label before their names. If one raises an exception, that is a failed check."""
    try:
        for check in checks:
            yield dataclasses.replace(check, name=f"{label} {check.name}")
    except Exception as error:  # every error of an engine is reported
        message = str(error).replace(str(Path.home()), "~").partition("\n")[0]
        yield Check(f"{label} {type(error).__name__}: {message}", math.inf, 0)


def _against_numpy(name: EngineName, config: ModelConfig) -> Iterator[Check]:
    """Logits, loss, gradients and optimizer steps of an engine against those of NumPy."""
    weights, batch = _random_weights(config), _random_batch(config, 0)
    engine, reader = _engine(name, config, "adamw", "float32"), NumpyEngine(config)
    engine.load(weights.items())
    reader.load(weights.items())
    yield Check(
        "logits", _error(engine.logits(batch.inputs), reader.logits(batch.inputs)), MAX_ERROR
    )
    yield Check("loss", _error(_loss(engine, batch), _loss(reader, batch)), MAX_ERROR)
    worst = max(
        _error(np.linalg.norm(g), _slope(reader, weights, batch, n, g.astype(np.float64)))
        for n, g in engine.gradients([batch])
    )
    yield Check("gradients, by differences of losses", worst, MAX_SLOPE_ERROR)
    for optimizer in SETTINGS:
        _, found = _trained(name, config, optimizer, "float32")
        expected = _trained_by_numpy(engine, config, optimizer)
        worst = max(_error(found[n] - weights[n], w - weights[n]) for n, w in expected.items())
        yield Check(f"{STEPS} steps of {optimizer}", worst, MAX_ERROR_AFTER_STEPS)
    own = _engine(name, config, "adamw", "auto").facts["precision"]
    if own != "float32":
        losses, _ = _trained(name, config, "adamw", "float32")
        in_own, _ = _trained(name, config, "adamw", own)
        yield Check(
            f"losses of {STEPS} steps in {own}, to float32",
            _largest_difference(in_own, losses),
            MAX_HALF_ERROR,
        )


def _against_each_other(one: EngineName, other: EngineName, config: ModelConfig) -> Iterator[Check]:
    """Gradients and the losses of some steps of two engines that start from the same weights."""
    gradients = []
    for name in (one, other):
        engine = _engine(name, config, "adamw", "float32")
        engine.load(_random_weights(config).items())
        gradients.append(dict(engine.gradients([_random_batch(config, 0)])))
    worst = max(1 - _cosine(gradient, gradients[1][n]) for n, gradient in gradients[0].items())
    yield Check("gradients, 1 - cosine", worst, MAX_COSINE_DISTANCE)
    for optimizer in SETTINGS:
        losses, others = (_trained(name, config, optimizer, "float32")[0] for name in (one, other))
        yield Check(
            f"losses of {STEPS} steps of {optimizer}",
            _largest_difference(losses, others),
            MAX_ERROR_AFTER_STEPS,
        )


def _trained(
    name: EngineName, config: ModelConfig, optimizer: str, precision: str
) -> tuple[list[float], dict[str, Doubles]]:
    """Train some steps from random weights: the loss of each step, and the weights after them."""
    engine = _engine(name, config, optimizer, precision)
    engine.load(_random_weights(config).items())
    losses = [
        engine.train_step([_random_batch(config, step)], RATES[optimizer], step).result().loss
        for step in range(STEPS)
    ]
    return losses, {name: array.astype(np.float64) for name, array in engine.state()}


def _trained_by_numpy(engine: Engine, config: ModelConfig, optimizer: str) -> dict[str, Doubles]:
    """The weights that move, after the same steps with the engine's gradients and NumPy's optimizer."""
    start = {n: weight.astype(np.float64) for n, weight in _random_weights(config).items()}
    weights, history = dict(start), {n: list[Doubles]() for n in start}
    moving = [p for p in parameters(config) if optimizer == "adamw" or p.group == "matrix"]
    for step in range(STEPS):
        engine.load((n, weight.astype(np.float32)) for n, weight in weights.items())
        batch = _random_batch(config, step)
        gradients = {n: g.astype(np.float64) for n, g in engine.gradients([batch])}
        norm = math.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
        for n, g in gradients.items():
            history[n].append(g / max(1.0, norm / SETTINGS[optimizer].max_grad_norm))
        weights |= {p.name: _moved(p, start[p.name], history[p.name], optimizer) for p in moving}
    return {p.name: weights[p.name] for p in moving}


def _moved(p: Parameter, weight: Doubles, gradients: list[Doubles], optimizer: str) -> Doubles:
    """A weight after one step for each gradient."""
    s, lr = SETTINGS[optimizer], RATES[optimizer][optimizer]
    if optimizer == "adamw":
        decay = s.weight_decay if p.decay else 0.0
        return adamw(weight, gradients, lr, decay=decay, beta1=s.beta1, beta2=s.beta2, eps=s.eps)
    parts = [array.reshape(p.stacked, *p.matrix_shape) for array in (weight, *gradients)]
    moved = [
        muon(first, list(others), lr, decay=s.weight_decay, momentum=s.muon_momentum)
        for first, *others in zip(*parts, strict=True)
    ]
    return np.stack(moved).reshape(p.shape)


def _slope(reader: Reader, weights: Weights, batch: Batch, name: str, gradient: Doubles) -> float:
    """The slope of the loss along the gradient of one weight, which equals the gradient's length if that is right."""
    length = float(np.linalg.norm(gradient))
    direction = (gradient / length).astype(np.float32)
    # Far enough to exceed rounding, and so near that every token keeps its experts: the loss jumps where one changes.
    reach = np.float32(min(1e-3, 1e-4 / length))
    losses = []
    for moved in (weights[name] + reach * direction, weights[name] - reach * direction):
        reader.load((weights | {name: moved}).items())
        losses.append(_loss(reader, batch))
    return (losses[0] - losses[1]) / (2 * float(reach))


def training_speed(name: EngineName) -> Iterator[str]:
    """A line on speed and memory of training for a small model and, unless that takes too long, for `tiny`."""
    small = shaped(
        preset("tiny"), {"n_layers": 6, "d_model": 384, "vocab_size": 8000, "seq_len": 256}
    )
    machine = select.machine(name)
    capacity = machine.memory_capacity()
    flops_per_second = machine.flops_per_second("auto")
    for config, batch_size in ((small, 8), (preset("tiny"), 32)):
        n_tokens = batch_size * config.seq_len
        expected = expected_seconds_per_step(config, n_tokens, flops_per_second)
        computing = Computing("adamw", machine.step_traits("auto", config.seq_len), masked=False)
        needed = training_memory(config, batch_size, computing).total
        label = (
            f"{config.n_layers} x {config.d_model}, vocabulary {config.vocab_size:,} "
            f"({count_parameters(config) / 1e6:.1f} M), {batch_size} x {config.seq_len} tokens a step"
        )
        if expected > MAX_STEP_SECONDS or needed > capacity:
            yield (
                f"{label}: left out, a step would take about {expected:.0f} s and {needed / 1e9:.1f} GB"
            )
            continue
        options = EngineOptions(SETTINGS["adamw"], compiled=machine.compiles_at_once())
        engine = select.create(config, options, name=name)
        seconds = _seconds_per_step(engine, _random_batch(config, 0, batch_size))
        flops_per_second *= expected / seconds
        facts = ", ".join(engine.facts[fact] for fact in ("engine", "device", "precision"))
        yield (
            f"{label}: {n_tokens / seconds:,.0f} tokens/s, {seconds:.2f} s a step, "
            f"peak {engine.peak_memory() / 1e9:.1f} GB ({facts})"
        )


def _seconds_per_step(engine: Engine, batch: Batch) -> float:
    """The mean of some steps after a first one, which is not counted because it may compile or allocate."""
    engine.train_step([batch], RATES["adamw"], 0).result()
    began, steps = time.perf_counter(), 0
    while steps < 2 or (steps < STEPS and time.perf_counter() - began < MAX_STEP_SECONDS / 2):
        steps += 1
        engine.train_step([batch], RATES["adamw"], steps).result()
    return (time.perf_counter() - began) / steps


def _engine(name: EngineName, config: ModelConfig, optimizer: str, precision: str) -> Engine:
    return select.create(config, EngineOptions(SETTINGS[optimizer], precision), name=name)


def _random_weights(config: ModelConfig) -> Weights:
    """Random values for all weights. The zero biases and unit gains of initial weights would hide mistakes."""
    rng = np.random.default_rng(0)
    return {
        p.name: (p.mean + 0.2 * rng.standard_normal(p.shape)).astype(np.float32)
        for p in parameters(config)
    }


def _random_batch(config: ModelConfig, seed: int, rows: int = 3) -> Batch:
    ids = np.random.default_rng(seed).integers(
        0, config.vocab_size, (rows, config.seq_len + 1), dtype=np.int32
    )
    return Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]))


def _loss(engine: Reader, batch: Batch) -> float:
    """Mean loss in nats."""
    total, count = engine.loss(batch)
    return total / count


def _error(found: object, expected: object) -> float:
    """L2 norm of the difference, relative to that of the expected value."""
    reference = np.asarray(expected, dtype=np.float64)
    difference = np.asarray(found, dtype=np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def _cosine(one: object, other: object) -> float:
    a, b = (np.asarray(array, dtype=np.float64).ravel() for array in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _largest_difference(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference of two lists of losses."""
    return max(_error(one, other) for one, other in zip(losses, expected, strict=True))
