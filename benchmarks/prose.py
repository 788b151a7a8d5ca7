"""Loss on real prose: of a fixed model after a fixed number of tokens, and of the recipe after a fixed time.

    python -m benchmarks.prose fixed fairy_tales.txt
    python -m benchmarks.prose recipe fairy_tales.txt
    python -m benchmarks.prose references fairy_tales.txt

Each document of the file belongs to one side: one in ten, chosen by hash, is validation. The score is the mean loss, in
float32, over windows of the validation text that do not overlap. With `--tune` a part of the training side replaces the
validation side, which is then not read, and nothing is saved. The references need no neural model.
"""

import hashlib
import lzma
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from benchmarks.figures import HELD_OUT
from benchmarks.kneser_ney import KneserNey
from homespun.architectures.families import count_active_parameters, count_parameters
from homespun.data.corpus import survey
from homespun.evaluation.scoring import Evaluator
from homespun.language_model import load
from homespun.tokenizer import END_OF_TEXT, train

FIXED = """
    --model-size tiny --n-layers 6 --n-heads 6 --d-model 384 --vocab-size 4096 --seq-len 256
    --batch-size 8 --max-steps 450 --optimizer adamw
    --learning-rate 1e-3 --warmup-steps 20 --schedule linear --min-learning-rate-ratio 0 --beta2 0.99 --weight-decay 0.1
    --eval-interval 1000000 --sample-interval 1000000
"""
"""12.2 M parameters without the position embeddings, 921,600 tokens. The values in the third line are free and may be
tuned with `--tune`. With the last line the run evaluates only at its end, so that it selects nothing by its validation
side."""

VOCAB_SIZE = 4096
"""Of the tokens that the 5-gram model counts, as many as the recipe chooses for this text."""

Text = Annotated[Path, tyro.conf.Positional]
Seeds = tuple[int, ...]


def fixed(text: Text, seeds: Seeds = (0, 1, 2), tune: bool = False, flags: str = "") -> None:
    """Train GPT-2 of 6 x 384 with AdamW on 921,600 tokens.

    Args:
        text: the file.
        seeds: seeds of the runs.
        tune: score on a part of the training side.
        flags: more flags for `homespun train`.
    """
    learned, held_out = sides(text, tune)
    # The run holds out the same documents itself and does not train on them.
    documents = learned if tune else [*learned, *held_out]
    runs = [scored(documents, held_out, f"{FIXED} {flags}", seed) for seed in seeds]
    finish("prose_fixed", {"450 steps of 8 x 256 tokens": runs}, tune)


def recipe(
    text: Text,
    budgets: tuple[str, ...] = ("60s", "120s"),
    seeds: Seeds = (0, 1, 2),
    tune: bool = False,
    flags: str = "",
) -> None:
    """Train with no flags but the text and a time budget. The run never sees the validation side.

    Args:
        text: the file.
        budgets: time budgets.
        seeds: seeds of the runs.
        tune: score on a part of the training side.
        flags: more flags for `homespun train`.
    """
    learned, held_out = sides(text, tune)
    tables = {
        f"--time-budget {budget}": [
            scored(learned, held_out, f"--time-budget {budget} {flags}", seed) for seed in seeds
        ]
        for budget in budgets
    }
    finish("prose_recipe", tables, tune)


def references(text: Text) -> None:
    """Score the validation side by compression and by 5-gram models of bytes and of tokens.

    Args:
        text: the file.
    """
    learned, held_out = sides(text, tune=False)
    n_bytes = sum(len(document.encode()) for document in held_out)
    size = len(compressed([*learned, *held_out])) - len(compressed(learned))
    rows: list[report.Row] = [{"of": "xz -9e", "bits/byte": round(8 * size / n_bytes, 4)}]
    tokenizer = train(learned, VOCAB_SIZE)
    for of, vocab_size, symbols in (
        ("5-gram of bytes", 257, lambda document: [byte + 1 for byte in document.encode()]),
        ("5-gram of tokens", tokenizer.vocab_size, tokenizer.encode),
    ):
        model = KneserNey(map(symbols, learned), order=5, vocab_size=vocab_size, mark=0)
        nats = sum(model.nats(symbols(document)) for document in held_out)
        rows.append({"of": of, "bits/byte": round(nats / math.log(2) / n_bytes, 4)})
        print(report.table(rows[-1:]), flush=True)
    report.save("prose_references", {HELD_OUT: rows})


def compressed(documents: Sequence[str]) -> bytes:
    """These documents as `xz -9e` compresses them."""
    text = f"\n{END_OF_TEXT}\n".join(documents).encode()
    return lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)


def sides(text: Path, tune: bool) -> tuple[list[str], list[str]]:
    """Documents to train on and to score on: the sides of the text, or with `tune` two parts of its training side."""
    corpus = survey(text)
    training = list(corpus.training())
    if not tune:
        return training, list(corpus.validation())
    held_out = [document for document in training if _hash(document) // 10 % 10 == 0]
    return [document for document in training if document not in held_out], held_out


def scored(documents: Sequence[str], held_out: Sequence[str], flags: str, seed: int) -> report.Row:
    """Train on a file of these documents with the real command, and score the best weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(f"\n{END_OF_TEXT}\n".join(documents), encoding="utf-8")
        words = ["train", "--data-file", "text.txt", *shlex.split(flags), "--seed", str(seed)]
        print("$ homespun", shlex.join(words), flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "homespun", *words], cwd=folder, check=True)
        seconds = time.perf_counter() - start
        return {"seed": seed, **score(folder / "checkpoints", held_out), "seconds": round(seconds)}


def score(checkpoints: Path, held_out: Sequence[str], seq_len: int | None = None) -> report.Row:
    """Mean loss of a run's best weights over these documents, each after an end-of-text mark, in windows of `seq_len`
    tokens, by default as long as the model's context."""
    model = load(checkpoints, precision="float32")
    stream = model.tokenizer.join(held_out)
    evaluator = Evaluator(
        stream,
        model.tokenizer.byte_lengths,
        seq_len=seq_len or model.config.seq_len,
        batch_size=8,
    )
    nats = evaluator(model.engine).loss
    bytes_per_token = sum(len(document.encode()) for document in held_out) / len(stream)
    return {
        "M parameters": round(count_parameters(model.config) / 1e6, 1),
        "M used by a token": round(count_active_parameters(model.config) / 1e6, 1),
        "tokens of text": len(stream),
        "bytes/token": round(bytes_per_token, 5),
        "nats/token": round(nats, 4),
        "bits/byte": round(nats / math.log(2) / bytes_per_token, 4),
    }


def finish(name: str, tables: report.Tables, tune: bool) -> None:
    """Report the mean and range over the seeds, and each run. Save the report unless tuning."""
    summary = []
    for title, runs in tables.items():
        row: dict[str, str | float] = {"of": title}
        for unit in ("nats/token", "bits/byte"):
            figures = [float(run[unit]) for run in runs]
            row |= {f"mean {unit}": round(statistics.mean(figures), 4)}
            row |= {f"least {unit}": min(figures), f"most {unit}": max(figures)}
        summary.append(row)
    results = {"over the seeds": summary, **tables}
    if tune:
        print(report.rendered(results))
    else:
        report.save(name, results)


def _hash(document: str) -> int:
    return int(hashlib.sha256(document.encode()).hexdigest(), 16)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"fixed": fixed, "recipe": recipe, "references": references}
    )
