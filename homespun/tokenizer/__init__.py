"""Text in, token ids out, and back: tokenizers trained here, and any `tokenizer.json` of the `tokenizers` library.

Special tokens are never recognised in a text: `<|endoftext|>` in a document is encoded as text.
"""

from homespun.tokenizer.byte_level_bpe import END_OF_TEXT
from homespun.tokenizer.folder import REPORT, SPECIFICATION, check_folder, read_report
from homespun.tokenizer.tokenizer import StreamDecoder, Tokenizer
from homespun.tokenizer.training import train

__all__ = [
    "END_OF_TEXT",
    "REPORT",
    "SPECIFICATION",
    "StreamDecoder",
    "Tokenizer",
    "check_folder",
    "read_report",
    "train",
]
