"""Llama (Touvron et al., 2023): the block of Qwen3 without norms on queries and keys."""

from homespun.architectures.base import GGUFLayout
from homespun.architectures.qwen3 import Qwen3


class Llama(Qwen3):
    """Shares proportions, initial values and Hugging Face settings with Qwen3."""

    name = "llama"
    huggingface_class = "LlamaForCausalLM"
    has_qk_norm = False
    expert_family = ""
    gguf = GGUFLayout(
        norm_eps="attention.layer_norm_rms_epsilon",
        has_rotary_positions=True,
        interleaves_rotary_pairs=True,
    )
