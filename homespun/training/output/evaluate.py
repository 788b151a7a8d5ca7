"""A run flows in, the evaluation of its validation text flows out.

The tokens are always the same, so that values can be compared.
"""

from homespun.data.chat_samples import ChatDataset
from homespun.data.shards import TokenStream
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
    return _scored(run, run.tokens.validation, answers=run.chat is not None)


def replay_evaluator_of(run: Run) -> Evaluator | ChatEvaluator | None:
    """The same for the part of the replayed text that is held out; None in a run without one."""
    if run.replay is None:
        return None
    return _scored(run, run.replay.tokens.validation, answers=run.replay.corpus.is_chat)


def _scored(run: Run, tokens: TokenStream, *, answers: bool) -> Evaluator | ChatEvaluator:
    """Scores these tokens, or the answers in them."""
    c = run.config
    if answers:
        return ChatEvaluator(
            ChatDataset(tokens, c.seq_len),
            run.tokenizer.byte_lengths,
            batch_size=c.batch_size,
            max_tokens=c.eval_tokens,
        )
    n_targets = min(len(tokens) - 1, c.eval_tokens)
    return Evaluator(
        tokens,
        run.tokenizer.byte_lengths,
        seq_len=c.seq_len,
        batch_size=c.batch_size,
        max_tokens=n_targets // c.seq_len * c.seq_len or n_targets,
    )
