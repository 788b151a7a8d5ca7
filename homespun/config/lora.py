"""The settings of LoRA: the size of the adapters, and the matrices that have them.

They flow from flags and files to the engine, which then trains the adapters alone.
"""

from dataclasses import dataclass

from homespun.config.checked import Checked, setting


@dataclass(frozen=True)
class LoraConfig(Checked):
    """LoRA. Train small adapters of a trained model, and leave its own weights as they are."""

    lora_rank: int | None = setting(
        None,
        "Rank of the adapters, such as 8. The model itself is frozen then, which takes about half the memory.",
        if_omitted="the whole model is trained",
        at_least=1,
        at_most=65_536,
        on_resume="fixed",
    )
    lora_alpha: float | None = setting(
        None,
        "Strength of the adapters: their product is multiplied by it and divided by the rank.",
        if_omitted="twice the rank",
        above=0,
        at_most=1e6,
        on_resume="fixed",
    )
    lora_targets: str | None = setting(
        None,
        "Matrices with adapters: all, attention, or names such as q_proj,v_proj.",
        if_omitted="all matrices of the blocks",
        on_resume="fixed",
    )
