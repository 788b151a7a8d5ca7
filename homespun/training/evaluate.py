"""A run flows in, the evaluation of its validation text flows out.

The tokens are always the same, so that values can be compared.
"""

from homespun.evaluation.scoring import Evaluator
from homespun.training.run import Run


def evaluator_of(run: Run) -> Evaluator:
    """Scores the first `eval_tokens` of the validation text, in whole windows that do not overlap. A text shorter than
    one window is one window."""
    c = run.config
    n_targets = min(len(run.tokens.validation) - 1, c.eval_tokens)
    return Evaluator(
        run.tokens.validation,
        run.tokenizer.byte_lengths,
        seq_len=c.seq_len,
        batch_size=c.batch_size,
        max_tokens=n_targets // c.seq_len * c.seq_len or n_targets,
    )
