"""Text in, token ids out, and back: tokenizers trained here, and any `tokenizer.json` of the `tokenizers` library.

Special tokens are never recognised in a text: `<|endoftext|>` in a document is encoded as text.
"""

from homespun.tokenizer.byte_level_bpe import END_OF_TEXT
from homespun.tokenizer.chat_template import ChatTemplate, Rendered
from homespun.tokenizer.folder import REPORT, SPECIFICATION, check_folder, read_report
from homespun.tokenizer.messages import Message, check_messages
from homespun.tokenizer.tokenizer import StreamDecoder, Tokenizer
from homespun.tokenizer.training import train

__all__ = [
    "END_OF_TEXT",
    "REPORT",
    "SPECIFICATION",
    "ChatTemplate",
    "Message",
    "Rendered",
    "StreamDecoder",
    "Tokenizer",
    "check_folder",
    "check_messages",
    "read_report",
    "train",
]
