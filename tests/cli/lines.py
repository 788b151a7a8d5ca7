"""The beginnings of command lines, to which a test adds flags, and a function that runs one as a process."""

import subprocess
import sys
from typing import Any

TRAIN = (
    "train --data-file stories.txt --model-size pico --n-layers 1 --d-model 32 --n-heads 2 "
    "--seq-len 32 --batch-size 4 --max-steps 2 --eval-tokens 500 --checkpoint-dir new"
)
TOKENIZER = "tokenizer --output-dir new_tokenizer"
DOWNLOAD = "download --output new.txt"
GENERATE = "generate --max-tokens 3"
TUNE = (
    "tune --model-size pico --n-layers 1 --d-model 32 --n-heads 2 --seq-len 32 --batch-size 4 "
    "--max-steps 8 --eval-tokens 500 --vocab-size 300 --trials 2 --spread-runs 0 --pruning off"
)


def run_with(streams: str, *words: str, **how: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run `homespun WORDS` with redirections in the syntax of a shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "homespun", *words],
        capture_output=True,
        **how,
    )
