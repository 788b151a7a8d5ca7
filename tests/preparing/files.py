"""A text in several files, and folders of tokens to compare."""

import json
from pathlib import Path

from homespun.data.corpus import survey
from homespun.data.prepare import VERIFIED, prepare
from homespun.data.remote import RECORD
from homespun.stories import stories
from homespun.tokenizer import Tokenizer
from tests.data.files import written

MARK = "\n<|endoftext|>\n"


def text_in(folder: Path, n: int = 240) -> Path:
    """A folder with files of two kinds."""
    texts = list(stories(n, seed=1))
    folder.mkdir()
    half = n // 2
    written(folder / "a.txt", MARK.join(texts[: half // 2]))
    written(folder / "b.txt", MARK.join(texts[half // 2 : half]))
    written(folder / "c.jsonl", "\n".join(json.dumps({"text": text}) for text in texts[half:]))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder of tokens that do not depend on how they were made."""
    others = (VERIFIED, RECORD, "lock")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in others}


def tokens_in(folder: Path) -> Path:
    """The only folder of tokens there."""
    [found] = [path for path in folder.iterdir() if (path / "index.json").exists()]
    return found


def expected() -> dict[str, bytes]:
    """The tokens that one process makes of `web`, with the tokenizer that was chosen."""
    tokenizer = Tokenizer.load(Path("tokenizer_model"))
    return contents(prepare(survey(Path("web")), tokenizer, Path("control")).folder)
