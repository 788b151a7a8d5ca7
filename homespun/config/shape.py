"""The settings of a model's shape: how many blocks, heads and experts, and how wide.

Planning takes the omitted ones from a preset; the architecture of the model takes all of them.
"""

from dataclasses import dataclass

from homespun.config.checked import Checked, setting
from homespun.config.data import LEAST_VOCAB_SIZE

FROM_PRESET = "from the preset"


@dataclass(frozen=True)
class ShapeConfig(Checked):
    """Model shape. The preset is that of --model-size or, without it, one that suits the machine and the time."""

    vocab_size: int | None = setting(
        None,
        "Vocabulary size of the tokenizer. There are fewer tokens if the text does not support as many.",
        if_omitted="that of the tokenizer; at most 4,096 if one is trained automatically",
        at_least=LEAST_VOCAB_SIZE,
        on_resume="fixed",
    )
    architecture: str | None = setting(
        None, "Model family.", if_omitted=FROM_PRESET, on_resume="fixed"
    )
    n_layers: int | None = setting(
        None,
        "Number of blocks.",
        if_omitted=FROM_PRESET,
        at_least=1,
        at_most=10_000,
        on_resume="fixed",
    )
    n_heads: int | None = setting(
        None,
        "Attention heads.",
        if_omitted=f"{FROM_PRESET}; they follow --d-model",
        at_least=1,
        on_resume="fixed",
    )
    n_kv_heads: int | None = setting(
        None,
        "Key/value heads, for grouped-query attention; divides --n-heads.",
        if_omitted=f"{FROM_PRESET}, or --n-heads if that or --d-model is given",
        at_least=1,
        on_resume="fixed",
    )
    d_model: int | None = setting(
        None,
        "Width of the residual stream.",
        if_omitted=FROM_PRESET,
        at_least=2,
        on_resume="fixed",
    )
    d_ff: int | None = setting(
        None,
        "Width of the feed-forward layers.",
        if_omitted=f"{FROM_PRESET}; it follows --d-model",
        at_least=1,
        on_resume="fixed",
    )
    experts: int | None = setting(
        None,
        "Number of experts in each feed-forward layer of a mixture; a token uses a few of them.",
        if_omitted=f"{FROM_PRESET}, or eight in a family with experts",
        at_least=2,
        at_most=4096,
        on_resume="fixed",
    )
    experts_per_token: int | None = setting(
        None,
        "Number of experts that a token uses.",
        if_omitted=f"{FROM_PRESET}, or two",
        at_least=1,
        on_resume="fixed",
    )
    d_expert: int | None = setting(
        None,
        "Width of the feed-forward layer of one expert.",
        if_omitted=f"{FROM_PRESET}, or --d-ff divided by --experts-per-token",
        at_least=1,
        on_resume="fixed",
    )
    dense_layers: int | None = setting(
        None,
        "Number of first blocks with one feed-forward layer of width --d-ff instead of experts.",
        if_omitted=FROM_PRESET,
        at_least=0,
        on_resume="fixed",
    )
