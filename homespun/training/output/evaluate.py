"""A run flows in, the evaluation of its validation text flows out.

The tokens are always the same, so that values can be compared.
"""

from homespun.data.chat_samples import ChatDataset
from homespun.evaluation.scoring import ChatEvaluator, Evaluator
from homespun.training.preferences.preparation import PreferenceEvaluator
from homespun.training.run import Run


def evaluator_of(run: Run) -> Evaluator | ChatEvaluator | PreferenceEvaluator:
    """Scores the first `eval_tokens` of the validation text, in whole windows that do not overlap. A text shorter than
    one window is one window. Of conversations, the answers are scored, and of preferences
    the pairs."""
    c = run.config
    if run.preferences:
        return PreferenceEvaluator(run.preferences, beta=c.beta, batch_size=c.batch_size)
    if run.chat:
        return ChatEvaluator(
            ChatDataset(run.tokens.validation, c.seq_len),
            run.tokenizer.byte_lengths,
            batch_size=c.batch_size,
            max_tokens=c.eval_tokens,
        )
    n_targets = min(len(run.tokens.validation) - 1, c.eval_tokens)
    return Evaluator(
        run.tokens.validation,
        run.tokenizer.byte_lengths,
        seq_len=c.seq_len,
        batch_size=c.batch_size,
        max_tokens=n_targets // c.seq_len * c.seq_len or n_targets,
    )
