"""Text in, token ids out, and back: one class for every kind of tokenizer.

A definition gives the meaning of the ids; the `tokenizers` library encodes. The hash of the definition is the identity
of a tokenizer, which token shards and checkpoints store.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from homespun.errors import UserError
from homespun.tokenizer.byte_level_bpe import END_OF_TEXT, ByteLevelBPE
from homespun.tokenizer.folder import (
    REPORT,
    configured_eos,
    read_report,
    read_specification,
    write_folder,
)
from homespun.tokenizer.specification import Specification
from homespun.tokenizer.splitting import Splitting
from homespun.tokenizer.utf8 import utf8
from homespun.tokenizer.word_cache import DOCUMENT_START, WordCache

if TYPE_CHECKING:
    import tokenizers

PIECE = 1 << 16
"""Longer texts are cut, if possible, into pieces of at most this many characters before they are encoded."""
GROUP = 1 << 20
"""About this many characters are encoded at a time: the library needs some 40 bytes of memory for each."""


class Definition(Protocol):
    """All that makes a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """The largest id, plus 1."""

    @property
    def eot_id(self) -> int:
        """The token that separates documents."""

    @property
    def splitting(self) -> Splitting | None:
        """The places where a text may be cut before it is encoded; None if no places are known."""

    @property
    def is_lossless(self) -> bool:
        """Whether the bytes of a text's tokens are always exactly the text."""

    @property
    def drops_first_space(self) -> bool:
        """Whether a space is put before each text, and dropped when it is decoded."""

    def encoder(self) -> "tokenizers.Tokenizer":
        """The library's tokenizer, which encodes the spelling of a special token as text."""

    def token_bytes(self) -> list[bytes]:
        """The text of each id as bytes, empty for special tokens and unused ids. [vocab_size]"""

    def identity(self) -> Any:
        """The JSON whose hash is the identity of the tokenizer."""

    def to_json(self) -> str:
        """A `tokenizer.json`."""

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens by their spelling."""

    def special_names(self) -> dict[str, str]:
        """Special tokens by their names in `tokenizer_config.json`."""


class Tokenizer:
    """Encodes texts, and decodes ids."""

    def __init__(self, definition: Definition):
        self._definition = definition
        self._library = definition.encoder()
        self.vocab_size = definition.vocab_size
        """The largest id, plus 1. Not every smaller number has to be a token."""
        self.eot_id = definition.eot_id
        """The token that separates documents: 0 in every tokenizer that is trained here."""
        self._splitting = definition.splitting
        self._cache = self._splitting and WordCache(
            self._splitting,
            self._encode_batch,
            self.eot_id,
            self.byte_lengths if definition.is_lossless else None,
        )

    @cached_property
    def sha256(self) -> str:
        """The identity, which does not depend on the form of the file."""
        canonical = json.dumps(self._definition.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens by their spelling."""
        return self._definition.special_ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens: their spelling in a text is text.

        Added tokens that are not special, such as `<think>` in Qwen 3, are found in a text, as by the library.

        Raises:
            UserError: the text holds a lone surrogate, which has no UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        batch: list[list[int]] = []
        for group in _groups(self._pieces(text) for text in texts):
            encoded = self._encode_batch([piece for _, piece in group])
            for (begins_text, _), ids in zip(group, encoded, strict=True):
                if begins_text:
                    batch.append(ids)
                else:
                    batch[-1] += ids
        return batch

    def encode_with_places(
        self, texts: Sequence[str]
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """As `encode_batch`; with the ids come the places of their tokens in the text, in characters."""
        return [(encoding.ids, encoding.offsets) for encoding in self._encodings(texts)]

    def join(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """The token stream for training: each document follows an `eot_id`. [n_tokens]

        Raises:
            UserError: as for `encode`.
        """
        stream = [np.empty(0, np.int32)]
        for group in _groups(self._pieces(document) for document in documents):
            stream.append(self._joined(group))
        return np.concatenate(stream)

    def _joined(self, group: Sequence[tuple[bool, str]]) -> npt.NDArray[np.int32]:
        if self._cache:
            words: list[str] = []
            for begins_document, piece in group:
                if begins_document:
                    words.append(DOCUMENT_START)
                words += self._cache.splitting.words(piece)
            return np.frombuffer(self._cache.lookup(words), np.int32)
        ids: list[int] = []
        encoded = self._encode_batch([piece for _, piece in group])
        for (begins_document, _), piece_ids in zip(group, encoded, strict=True):
            ids += [self.eot_id] * begins_document + piece_ids
        return np.array(ids, np.int32)

    def _pieces(self, text: str) -> Iterator[str]:
        return self._splitting.pieces(text, PIECE) if self._splitting else iter([text])

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[str]) -> "Sequence[tokenizers.Encoding]":
        try:
            return self._library.encode_batch(texts, add_special_tokens=False)
        except TypeError:  # the library's error for a string that is not valid text
            for text in texts:
                utf8(text)
            raise

    def decode(self, ids: Iterable[int], *, continued: bool = False) -> str:
        """The text of some ids; bytes that are not UTF-8 give U+FFFD, special tokens nothing.

        Args:
            ids: the tokens.
            continued: whether other text precedes them. SentencePiece tokenizers begin each text with a space, which is
                dropped at the start of a text.

        Raises:
            IndexError: there is no such token.
        """
        text = b"".join(map(self.token_bytes, ids))
        if self._definition.drops_first_space and not continued:
            text = text.removeprefix(b" ")
        return text.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of text that a token stands for.

        Raises:
            IndexError: there is no such token.
        """
        if token < 0:
            raise IndexError(f"there is no token {token}")
        return self._token_bytes[token]

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        return self._definition.token_bytes()

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int32]:
        """Bytes of text of each token, 0 for special tokens. [vocab_size]"""
        return np.array([len(token) for token in self._token_bytes], np.int32)

    def stream(self, *, continued: bool = False) -> "StreamDecoder":
        """Decode token by token; `continued` as in `decode`."""
        return StreamDecoder(self, self._definition.drops_first_space and not continued)

    def to_json(self) -> str:
        """A `tokenizer.json` as the tokenizers and transformers libraries read it."""
        return self._definition.to_json()

    @classmethod
    def from_json(
        cls,
        text: str,
        where: str = "tokenizer.json",
        *,
        eos_token: str | None = None,
        configured: str | None = None,
    ) -> "Tokenizer":
        """The tokenizer that a `tokenizer.json` describes.

        Args:
            text: the file.
            where: messages begin with it.
            eos_token: the special token that separates documents. Without it, `<|endoftext|>` where there is one,
                or else the token that ends a sequence.
            configured: the token that ends a sequence, as a configuration beside the file states it.

        Raises:
            UserError: not JSON, damaged, or a tokenizer that cannot be used.
        """
        try:
            own = ByteLevelBPE.from_specification(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not readable as JSON ({error}); train the tokenizer again"
            ) from None
        try:
            if own and eos_token in (None, END_OF_TEXT):
                return cls(own)
            return cls(Specification(text, eos_token, configured))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except Exception as error:  # the library raises nothing narrower
            reason = f"no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
            raise UserError(
                f"{where}: not a tokenizer, or damaged ({reason}); get or train it again"
            ) from None

    def config(self) -> dict[str, Any]:
        """The content of a `tokenizer_config.json`, as the transformers library reads it."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self._definition.special_names(),
            "clean_up_tokenization_spaces": False,
        }

    def save(self, folder: str | Path, report: dict[str, Any] | None = None) -> Path | None:
        """Write the folder in one step; an earlier tokenizer there moves to FOLDER.1 (.2, ...).

        Args:
            folder: the folder to write.
            report: entries to add to `report.json`.

        Returns:
            The new place of the earlier tokenizer, if there was one.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        return write_folder(Path(folder), self.to_json(), self.config(), self.report(report or {}))

    def report(self, more: dict[str, Any]) -> dict[str, Any]:
        """The content of `report.json`: facts about the tokenizer, and more."""
        return {"vocab_size": self.vocab_size, "sha256": self.sha256} | more

    @classmethod
    def load(cls, path: str | Path, *, eos_token: str | None = None) -> "Tokenizer":
        """The tokenizer in a folder, or in a `tokenizer.json`.

        It is compared with the hash in the `report.json` beside it. Without a hash, as in folders of other programs, it
        is taken unchecked.

        Args:
            path: the folder or the file.
            eos_token: as in `from_json`; an `eos_token` in the `tokenizer_config.json` beside it is used too.

        Raises:
            UserError: there is none, it is not the one that was saved, or see `from_json`.
        """
        text, file = read_specification(Path(path))
        saved_sha256 = read_report(file).get("sha256")
        configured = configured_eos(file)
        if saved_sha256 is not None:
            saved = cls.from_json(text, str(file), configured=configured)
            if saved.sha256 != saved_sha256:
                raise UserError(
                    f"{file}: damaged, or not the one that {REPORT} describes: train it again; "
                    f"or delete {REPORT}, if you put another tokenizer there"
                )
            if eos_token is None:
                return saved
        return cls.from_json(text, str(file), eos_token=eos_token, configured=configured)


class StreamDecoder:
    """Ids flow in, text flows out as soon as its characters are complete. All pieces together equal `decode`."""

    def __init__(self, tokenizer: Tokenizer, drops_first_space: bool):
        self._tokenizer = tokenizer
        self._drops_space = drops_first_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is complete now; the bytes of an unfinished character are held back."""
        text = self._tokenizer.token_bytes(token)
        if self._drops_space and text:
            text, self._drops_space = text.removeprefix(b" "), False
        return self._utf8.decode(text)

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character is unfinished."""
        return self._utf8.decode(b"", final=True)


def _groups(texts: Iterable[Iterator[str]]) -> Iterator[list[tuple[bool, str]]]:
    """Pieces, each with whether it begins its text, in lists of about GROUP characters."""
    group: list[tuple[bool, str]] = []
    size = 0
    for pieces in texts:
        for number, piece in enumerate(pieces):
            group.append((number == 0, piece))
            size += len(piece)
            if size >= GROUP:
                yield group
                group, size = [], 0
    if group:
        yield group
