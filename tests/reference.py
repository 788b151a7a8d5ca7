"""Reference implementations for the engines: `transformers` and plain NumPy."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from homespun.architectures.families import family, parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import OptimizerSettings
from homespun.engine.low_memory import narrow_parameters
from homespun.engine.muon import ADAMW_RATE_FACTORS
from homespun.engine.numpy.optimizer import adamw, factored_adamw, muon

Arrays = dict[str, npt.NDArray[np.float32]]

GPT2 = ModelConfig(
    architecture="gpt2",
    vocab_size=97,
    seq_len=24,
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=4,
    head_dim=8,
    d_ff=128,
)
QWEN3 = ModelConfig(
    architecture="qwen3",
    vocab_size=97,
    seq_len=24,
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    d_ff=80,
    tie_embeddings=False,
    norm_eps=1e-6,
)

QWEN3_MOE = dataclasses.replace(
    QWEN3, architecture="qwen3_moe", experts=6, experts_per_token=2, d_expert=24
)
LLAMA = dataclasses.replace(QWEN3, architecture="llama")
EACH_FAMILY = {"gpt2": GPT2, "qwen3": QWEN3, "llama": LLAMA, "qwen3_moe": QWEN3_MOE}
TIED_AND_UNTIED = EACH_FAMILY | {
    "qwen3 tied": dataclasses.replace(QWEN3, tie_embeddings=True),
    "gpt2 untied": dataclasses.replace(GPT2, tie_embeddings=False),
}
"""A model of each family, and of two families one with the other kind of head."""


def random_weights(config: ModelConfig, seed: int = 0) -> Arrays:
    """Weights far from any initialisation, since zero biases, unit gains and small weights would hide mistakes."""
    rng = np.random.default_rng(seed)
    return {
        p.name: (p.mean + 0.2 * rng.standard_normal(p.shape)).astype(np.float32)
        for p in parameters(config)
    }


def random_batch(config: ModelConfig, rows: int = 3, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(
        0, config.vocab_size, (rows, config.seq_len + 1), dtype=np.int32
    )
    return Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]))


def of_transformers(config: ModelConfig) -> torch.nn.Module:
    """The same model in `transformers`, with the library's initial weights."""
    values = family(config.architecture).huggingface_config(config)
    theirs = AutoConfig.for_model(
        **values, attn_implementation="eager", experts_implementation="eager"
    )
    return AutoModelForCausalLM.from_config(theirs)


class HuggingFace:
    """The model of `transformers` with our weights, in float64, so that its rounding errors are negligible."""

    def __init__(self, config: ModelConfig, weights: Arrays) -> None:
        self.is_transposed = family(config.architecture).is_transposed
        self.model = of_transformers(config).double().eval()
        state = {
            name: torch.from_numpy(array.T.copy() if self.is_transposed(name) else array).double()
            for name, array in weights.items()
        }
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        self.model.tie_weights()

    def logits(self, batch: Batch) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            return self.model(torch.from_numpy(batch.inputs).long()).logits.numpy()

    def gradients(
        self, batch: Batch, slope: torch.Tensor | None = None
    ) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Gradients of the mean loss over all targets, or of a loss with the derivative `slope` by the logits."""
        self.model.zero_grad()
        logits = self.model(torch.from_numpy(batch.inputs).long()).logits
        targets = torch.from_numpy(batch.targets).long()
        if slope is None:
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        else:
            logits.backward(slope)
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.numpy()
            yield name, gradient.T if self.is_transposed(name) else gradient


def relative_error(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """L2 norm of the difference, divided by the L2 norm of the reference."""
    reference = np.asarray(theirs, dtype=np.float64)
    return float(
        np.linalg.norm(np.asarray(ours, dtype=np.float64) - reference) / np.linalg.norm(reference)
    )


def updated_in_low_memory(
    config: ModelConfig,
    start: Arrays,
    gradients: list[Arrays],
    rates: dict[str, float],
    settings: OptimizerSettings,
) -> dict[str, npt.NDArray[np.float64]]:
    """The weights after a step of `--memory low` for each set of gradients, in float64 and without rounding."""
    spec, found = parameters(config), {}
    of_narrow, s = narrow_parameters(spec), settings
    for p in spec:
        n, columns = p.name, p.shape[-1]
        steps = [step[n].astype(np.float64) for step in gradients]
        weight = start[n].astype(np.float64)
        by_muon = s.name == "muon" and p.group == "matrix"
        if not by_muon and n not in of_narrow:
            matrices, parts = weight[None], [step[None] for step in steps]
        else:
            n_matrices = p.stacked if by_muon else p.size // columns // p.shape[-2]
            matrices = weight.reshape(n_matrices, -1, columns)
            parts = [step.reshape(matrices.shape) for step in steps]
        factor = ADAMW_RATE_FACTORS[p.group] if s.name == "muon" else 1.0
        decay = s.weight_decay if p.decay else 0.0
        updated = []
        for i, matrix in enumerate(matrices):
            own = [part[i] for part in parts]
            if by_muon:
                new = muon(matrix, own, rates["muon"], decay=decay, momentum=s.muon_momentum)
            else:
                method = factored_adamw if n in of_narrow else adamw
                new = method(
                    matrix, own, rates["adamw"] * factor,
                    decay=decay, beta1=s.beta1, beta2=s.beta2, eps=s.eps,
                )  # fmt: skip
            updated.append(new)
        found[n] = np.stack(updated).reshape(p.shape)
    return found
