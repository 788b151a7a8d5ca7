"""The settings of `homespun tune`: those of a run, and those of the search."""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import PathName, setting
from homespun.config.training import TrainConfig

Method = Literal["tpe", "gp", "grid"]
Pruning = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Search for better settings than those of the recipe. Many short runs are compared by their validation loss, or
    with --reward by the reward of held-out prompts, and the best ones go on. The command takes all settings of
    `homespun train`, which hold for every trial."""

    method: Method = setting(
        "tpe",
        "The choice of the trials. tpe and gp learn from the trials before (a tree of Parzen estimators, a Gaussian "
        "process); grid tries every combination.",
    )
    search: tuple[str, ...] = setting(
        (),
        "The settings to vary: NAME=V1,V2,... (values) or NAME=LOW:HIGH (a range; :log or :linear at its end gives the "
        "scale). x2 is twice the value of the recipe. learning_rate also moves Muon's rate.",
        if_omitted="the first ones of --dimensions, around the recipe",
    )
    dimensions: int = setting(
        2,
        "Without --search, the number of settings to vary, from the first on: learning_rate, batch_size, seq_len, "
        "warmup_steps, weight_decay.",
        at_least=1,
        at_most=5,
    )
    trials: int = setting(
        20,
        "Number of trials, of which the first one is the recipe. A grid has as many as it needs.",
        at_least=2,
        at_most=10_000,
    )
    pruning: Pruning = setting(
        "auto",
        "Compare the trials after a small part of their tokens, and let only the best go on; auto: yes, except for a "
        "grid.",
    )
    reduction: int = setting(
        4, "With pruning: one trial in N goes on, to N times the tokens.", at_least=2
    )
    rungs: int = setting(
        3,
        "With pruning: the number of lengths at which trials are compared.",
        at_least=1,
        at_most=8,
    )
    spread_runs: int = setting(
        2,
        "More runs of the recipe, with other seeds. Their spread is the least difference that counts.",
        at_least=0,
        at_most=100,
    )
    parallel: int | None = setting(
        None,
        "Trials that run at the same time.",
        if_omitted="as many as fit into memory, with two processors for each",
        at_least=1,
        at_most=1024,
    )
    transfer_from: PathName | None = setting(
        None,
        "Folder of a finished tune of a smaller model: carry its best learning rate and weight decay over, and try "
        "them here with some values around them.",
        if_omitted="nothing is carried over",
    )
    checkpoint_dir: PathName = setting(
        "tune", "Folder of the tune: the trials, their table, the best settings and the plot."
    )
    resume: Literal["never", "latest", "auto"] = setting(
        "never",
        "--resume goes on with the tune in the folder; --resume auto starts a new one if there is none.",
        const="latest",
    )
