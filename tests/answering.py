"""A small model of stories and questions about stories flow out, for runs that learn from answers."""

from typing import Any

import homespun as package

BASE: dict[str, Any] = {
    "model_size": "pico",
    "n_layers": 1,
    "d_model": 32,
    "n_heads": 2,
    "vocab_size": 400,
    "seq_len": 384,
    "batch_size": 2,
    "max_steps": 20,
    "threads": 1,
    "learning_rate": 3e-3,
    "checkpoint_dir": "base",
}


def model_and_questions(n_questions: int, **settings: Any) -> None:
    """In the working folder, train a model in `base` on the data there, and write `questions.jsonl`."""
    package.train(quiet=True, **BASE | settings)
    asked = {"dataset": "stories-questions", "plain": True, "questions": 1}
    package.download(output="questions.jsonl", num_samples=n_questions, **asked)
