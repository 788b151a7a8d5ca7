"""Settings for scoring text with trained models."""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import PathName, flag, preset_defaults, setting
from homespun.config.generation import ReaderConfig
from homespun.config.model import LONGEST_CONTEXT
from homespun.config.training import TrainConfig
from homespun.errors import UserError

MAX_DEFAULT_CONTEXT = 2048
"""Models with a longer context are scored with this one unless `seq_len` is given."""


BUILT_IN_PAIRS = "stories"
"""The value of `choices` for pairs from the world of the built-in stories."""
BUILT_IN_QUESTIONS = "stories"
"""The value of `questions` for questions about unseen built-in stories."""


@dataclass(frozen=True)
class EvalConfig(ReaderConfig):
    """Score a text with one or more models: loss, perplexity, bits per byte; or let them choose between texts, or
    answer questions."""

    models: tuple[PathName, ...] = setting(
        (TrainConfig.checkpoint_dir,),
        "Models: .npz files, folders of runs, Hugging Face or MLX folders, GGUF files.",
        positional=True,
    )
    data_file: PathName | None = setting(
        None,
        "Text, as for `homespun train`. Of a text that one of the models was trained on, only the part held out for "
        "validation counts.",
        if_omitted="the last download",
    )
    choices: PathName | None = setting(
        None,
        "Instead of scoring a text, count how often the true text of a pair is likelier than the false one. FILE: a "
        ".tsv file with two columns, or a .jsonl file with sentence_good and sentence_bad; without it, pairs of the "
        "built-in stories.",
        if_omitted="off",
        const=BUILT_IN_PAIRS,
        metavar="FILE",
    )
    questions: PathName | None = setting(
        None,
        "Instead of scoring a text, count the questions that the model answers exactly, always with its likeliest "
        "token. FILE: conversations, of which the last answer is asked for; without it, questions about built-in "
        "stories with courses of events that `stories-questions` does not have.",
        if_omitted="off",
        const=BUILT_IN_QUESTIONS,
        metavar="FILE",
    )
    max_tokens: int | None = setting(
        preset_defaults(TrainConfig)["eval_tokens"],
        "Maximum number of tokens to score, from the beginning of the text; off: the whole text.",
        off=None,
        at_least=1,
    )
    seq_len: int | None = setting(
        None,
        "Tokens in a window.",
        if_omitted=f"the context of each model, at most {MAX_DEFAULT_CONTEXT:,}",
        at_least=1,
        at_most=LONGEST_CONTEXT,
    )
    stride: int | Literal["half"] | None = setting(
        None,
        "Let the window slide by N tokens (half a window if N is omitted), so that each token sees at least the rest "
        "of a window before it.",
        if_omitted="windows do not overlap",
        const="half",
        metavar="N",
        at_least=1,
    )
    batch_size: int = setting(8, "Windows that are computed together.", at_least=1)
    json: bool = setting(False, "Print a line of JSON for each model instead of a table.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise UserError("no model is named: name at least one")
        if self.choices is not None and self.questions is not None:
            raise UserError("--choices and --questions are two tests: leave one of them out")
        if self.questions is not None:
            for name in ("data_file", "seq_len", "stride"):
                if getattr(self, name) is not None:
                    raise UserError(f"--questions asks its own questions: leave {flag(name)} out")
        if self.choices is not None:
            if self.precision not in ("auto", "float32"):
                raise UserError("--choices computes in float32: leave --precision out")
            for name in ("data_file", "seq_len", "stride"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--choices compares whole texts of pairs: leave {flag(name)} out"
                    )
