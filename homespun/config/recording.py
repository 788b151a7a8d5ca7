"""The settings of the records: what a run prints, measures and saves, and how often.

They flow from flags and files to the loop of training and to those who listen to it.
"""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, setting
from homespun.config.data import TOKENS_DIR


@dataclass(frozen=True)
class RecordConfig(Checked):
    """Records. What is printed and saved during training."""

    log_interval: int | None = setting(
        None,
        "Steps between metrics.",
        with_preset=10,
        with_preset_words="10, or a tenth of a run of less than 100 steps",
        recipe="every 51,200 tokens, or a tenth of a shorter run",
        at_least=1,
    )
    eval_interval: int | None = setting(
        None,
        "Steps between evaluations.",
        with_preset=500,
        with_preset_words="500, or up to ten times in a run of less than 5,000 steps",
        recipe="up to ten times in a run",
        at_least=1,
    )
    eval_tokens: int | None = setting(
        None,
        "Maximum tokens of the validation text per evaluation, always the same ones. If it changes on resume, the best "
        "weights are measured again.",
        with_preset=200_000,
        with_preset_words="200,000, and 4,096 to 65,536 in a short run",
        recipe="200,000, and 4,096 to 65,536 in a short run; with --init-from as many as take 1% of the time",
        at_least=1,
        on_resume="announced",
    )
    sample_interval: int | None = setting(
        None,
        "Steps between sample texts.",
        with_preset=500,
        recipe="up to ten times in a run",
        at_least=1,
    )
    sample_prompts: tuple[str, ...] = setting(
        ("Once upon a time", "The cat", "In space"), "Prompts of the sample texts."
    )
    save_interval: int = setting(
        1000,
        "Steps between checkpoints; a run also saves every five minutes and at its end.",
        at_least=1,
    )
    keep: int = setting(
        3,
        "Number of checkpoints to keep, besides the best: the newest ones; older ones are deleted.",
        at_least=1,
    )
    track: tuple[str, ...] = setting(
        (),
        "Trackers that also get the records; each needs its package. `off`: a resumed run is not tracked any more.",
        if_omitted="none",
    )
    tokens_dir: PathName = setting(
        TOKENS_DIR, "Folder for the tokens of texts, which later runs use again."
    )
