"""Shared by the tests of downloads: texts and tables to publish, and a download whose pauses are noted."""

import functools
import io
import random
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from homespun.config import DownloadConfig
from homespun.data.download import download

MARK = "<|endoftext|>"
TINY = "roneneldan/TinyStories"


@functools.cache
def tell(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["once", "upon", "time", "dog", "cat", "ball", "naïve", "漢"]
    return [
        f"Story {i}.\n\n" + " ".join(rng.choices(words, k=rng.randrange(60, 200))) for i in range(n)
    ]


class Log:
    """Collects the messages of a download, and the durations of its pauses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.naps: list[float] = []

    def fetch(self, n: int | None = None, dataset: str = TINY, **settings: object) -> Path:
        config = DownloadConfig(dataset=dataset, num_samples=n, **settings)  # type: ignore[arg-type]
        return download(config, say=self.lines.append, sleep=self.naps.append)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)


def table(texts: list[str], column: str = "text", row_group_size: int = 500) -> bytes:
    file = io.BytesIO()
    columns = {"id": list(range(len(texts))), column: texts, "more": [text * 2 for text in texts]}
    parquet.write_table(
        pa.table(columns), file, row_group_size=row_group_size, use_dictionary=False
    )
    return file.getvalue()


def left_in_data() -> list[str]:
    return sorted(file.name for file in Path("data").iterdir())
