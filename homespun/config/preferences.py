"""Settings of learning from preferences: pairs of answers, of which one is the better."""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, setting


@dataclass(frozen=True)
class PreferenceConfig(Checked):
    """Preferences. Make the better of two answers likelier than the other (DPO)."""

    preferences: PathName | None = setting(
        None,
        "Pairs of answers to learn from instead of a text (.jsonl, .parquet, or a folder of them): `prompt`, `chosen`, "
        "`rejected`. The model is that of --init-from.",
        if_omitted="the run learns from --data-file",
    )
    beta: float = setting(
        0.1,
        "With --preferences: how strongly the model is held to the initial one; smaller values let it move further.",
        above=0,
        at_most=100,
        on_resume="announced",
    )
