"""Other people's implementations and plain NumPy, as judges of the engines."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from homespun.architectures.base import parameters
from homespun.config import ModelConfig
from homespun.data.batch import Batch

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


def random_weights(config: ModelConfig, seed: int = 0) -> Arrays:
    """Far from any initialisation: with zero biases, unit gains or small weights, mistakes would not show."""
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
    """The same model in `transformers`, which initialises it in its own way."""
    if config.architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.seq_len,
                n_embd=config.d_model,
                n_layer=config.n_layers,
                n_head=config.n_heads,
                n_inner=config.d_ff,
                layer_norm_epsilon=config.norm_eps,
                tie_word_embeddings=config.tie_embeddings,
                attn_implementation="eager",
            )
        )
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.seq_len,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.d_ff,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    )


class HuggingFace:
    """The model of `transformers` with our weights, in float64, so that every difference is ours."""

    def __init__(self, config: ModelConfig, weights: Arrays) -> None:
        self.transposed = config.architecture == "gpt2"
        self.model = of_transformers(config).double().eval()
        state = {
            name: torch.from_numpy(array.T.copy() if self._is_conv1d(name) else array).double()
            for name, array in weights.items()
        }
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        self.model.tie_weights()

    def logits(self, batch: Batch) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            return self.model(torch.from_numpy(batch.inputs).long()).logits.numpy()

    def gradients(self, batch: Batch) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Of the mean loss over all targets."""
        self.model.zero_grad()
        logits = self.model(torch.from_numpy(batch.inputs).long()).logits
        targets = torch.from_numpy(batch.targets).long()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.numpy()
            yield name, gradient.T if self._is_conv1d(name) else gradient

    def _is_conv1d(self, name: str) -> bool:
        """GPT-2's matrices are stored [in, out] there."""
        return self.transposed and ".h." in name and name.endswith("weight") and "ln_" not in name


def relative_error(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """L2 norm of the difference over that of the reference."""
    reference = np.asarray(theirs, dtype=np.float64)
    return float(
        np.linalg.norm(np.asarray(ours, dtype=np.float64) - reference) / np.linalg.norm(reference)
    )
