"""Training is reproducible and bounded in memory, and the vocabulary never exceeds the pairs of the text."""

import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from homespun.errors import UserError
from homespun.tokenizer import Tokenizer, train
from homespun.tokenizer.training import sample
from tests.tokenizer.conftest import story_texts


def test_the_same_text_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = tmp_path / "documents.json"
    documents.write_text(json.dumps(story_texts(200)), encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from homespun.tokenizer import train; "
        "print(train(json.loads(Path(sys.argv[1]).read_text()), 500).sha256)"
    )
    for parallel in ("true", "false"):
        environment = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": "3"}
        command = [sys.executable, "-c", program, str(documents)]
        printed = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert printed.stdout.decode().strip() == tokenizer.sha256
    assert train(story_texts(200, seed=1), 500).sha256 != tokenizer.sha256


def test_a_text_with_fewer_pairs_gives_fewer_tokens() -> None:
    documents = ["the cat sat on the mat, and the cat sat"]
    largest = train(documents, 8000)
    assert 257 < largest.vocab_size < 300
    for size in (largest.vocab_size, largest.vocab_size + 1, 1_000_000):
        assert train(documents, size).sha256 == largest.sha256
    assert train(documents, largest.vocab_size - 1).sha256 != largest.sha256


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="256"):
        train(["text"], 256)
    assert train(["text"], 257).vocab_size == 257


def test_the_sample_fits_and_is_spread_over_the_text() -> None:
    pieces = [f"{number:05} " + "x" * 94 for number in range(10_000)]
    kept = sample(pieces, 20_000, 10**9)
    assert 10_000 <= sum(map(sys.getsizeof, kept)) <= 20_000
    numbers = [int(piece[:5]) for piece in kept]
    assert numbers[0] == 0
    assert set(np.diff(numbers)) == {128}
    assert numbers[-1] > 10_000 - 128
    assert sample(pieces[:100], 20_000, 10**9) == pieces[:100]


def test_the_sample_has_a_bounded_number_of_distinct_words() -> None:
    rng = random.Random(0)
    pieces = ["".join(rng.choices("abcdefgh", k=100)) for _ in range(500)]
    assert 5_000 <= sum(map(len, sample(pieces, 10**9, 10_000))) <= 10_000
    assert sample(["same words"] * 500, 10**9, 10_000) == ["same words"] * 500


def test_a_stream_of_any_length_is_sampled_in_bounded_memory() -> None:
    piece = "one two three four five six seven " * 30
    tracemalloc.start()
    try:
        sample((f"{piece}{number}" for number in range(4_000)), 200_000, 10**9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000 < 4_000 * len(piece)
