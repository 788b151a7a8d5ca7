"""How well a small model answers after supervised fine-tuning, by learning rate and by passes.

    python -m benchmarks.answers base chats.jsonl

The base is the folder of a run on text. The learning rates are fractions of those of its run. One conversation in ten,
chosen by hash, is held out. An answer is right if it equals the given one; the model takes the most likely token each
time. The loss is that of the held-out answers, in nats per token.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Annotated

import tyro

import homespun
from benchmarks import report
from homespun.data.conversations import messages_of
from homespun.data.corpus import survey
from homespun.evaluation.intervals import interval
from homespun.model_formats.formats import open_model
from homespun.tokenizer import Message
from homespun.training.fine_tuning.initial_model import own_settings

QUESTIONS = 400
"""Held-out conversations whose first answer is checked."""


def main(
    base: Annotated[Path, tyro.conf.Positional],
    chats: Annotated[Path, tyro.conf.Positional],
    rates: tuple[float, ...] = (0.1, 0.3, 1.0),
    epochs: tuple[float, ...] = (1.0, 3.0),
    seeds: tuple[int, ...] = (0,),
    threads: int | None = None,
) -> None:
    """Train with each rate and number of passes, and ask.

    Args:
        base: the model that learns.
        chats: the conversations.
        rates: fractions of the rates of the run that trained the base.
        epochs: passes over the conversations.
        seeds: seeds of the runs.
        threads: of the runs.
    """
    own = own_settings(open_model(base))
    assert own is not None, "the base was not trained here"
    held_out = [messages_of(one) for one in itertools.islice(survey(chats).validation(), QUESTIONS)]
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        for rate, passes, seed in itertools.product(rates, epochs, seeds):
            folder = Path(name) / f"{len(rows)}"
            result = homespun.train(
                init_from=str(base),
                data_file=str(chats),
                checkpoint_dir=str(folder),
                max_epochs=passes,
                learning_rate=rate * own.learning_rate,
                muon_learning_rate=rate * own.muon_learning_rate,
                seed=seed,
                threads=threads,
                quiet=True,
            )
            right = correct(homespun.load(folder), held_out)
            low, high = interval(right, len(held_out))
            rows.append(
                {
                    "rate": rate,
                    "passes": passes,
                    "seed": seed,
                    "steps": result.steps,
                    "loss": round(result.best_val_loss or 0.0, 4),
                    "right": round(right / len(held_out), 3),
                    "95% from": round(low, 3),
                    "to": round(high, 3),
                }
            )
            print(rows[-1], flush=True)
    report.save("answers", {f"{len(held_out)} held-out answers": rows})


def correct(model: homespun.LanguageModel, talks: list[list[Message]]) -> int:
    """The number of conversations whose first answer the model gives exactly; one that does not fit is wrong."""
    asked = []
    for messages in talks:
        first = next(n for n, message in enumerate(messages) if message["role"] == "assistant")
        prompt = model.template.prompt(messages[:first])
        if len(prompt) < model.config.seq_len:
            asked.append((prompt, messages[first]["content"]))
    asked.sort(key=lambda pair: len(pair[0]))  # prompts of a batch are of about the same length
    answers = model.generate_batch([prompt for prompt, _ in asked], temperature=0, max_tokens=40)
    return sum(
        answer.text.strip() == expected
        for answer, (_, expected) in zip(answers, asked, strict=True)
    )


if __name__ == "__main__":
    tyro.cli(main)
