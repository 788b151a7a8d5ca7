"""Text in, token ids out, and back without loss: byte-level BPE on the `tokenizers` library.

A tokenizer is its vocabulary and its merges, nothing else; the hash of the two is its identity,
which token shards and checkpoints carry. The end-of-text mark has an id, but the encoder does not
know its spelling: in a text it is text.
"""

import codecs
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.errors import UserError

if TYPE_CHECKING:
    import tokenizers

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]

END_OF_TEXT = "<|endoftext|>"
REPORT = "report.json"
"""In a tokenizer's folder: what else is known of it."""

PIECE = 1 << 16
"""Longer texts are encoded in pieces of at most this many characters."""
GROUP = 1 << 20
"""About this many characters are encoded at a time: the library needs some 40 bytes for each."""
KNOWN = 1 << 20
"""Bytes of the distinct words whose ids are remembered, which takes some 15 to 20 of memory for each."""
_WORDS = re.compile(r"\s*+\S++(?:[^\S \n]\s*+\S*+)*|\s+")
"""A text in words, with the white space before each: one ends only where a piece of `_pieces` may."""
_START = ""
"""Stands before each document, among words, none of which is empty."""
_TOGETHER = 100
"""So many new words go to the library as one text, which takes it half the time."""

TRAINING_BYTES = 100_000_000
"""Memory of the text that the trainer sees at most; no count of a pair comes near 2^31."""
TRAINING_WORD_BYTES = 5_000_000
"""The distinct words in it: the trainer needs some 100 bytes of memory for each byte of them."""
TRAINING_PIECE = 1 << 10
"""Characters in a piece that the trainer sees: a merge goes through all of each word it is in."""


class Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenization."""

    def __init__(self, vocabulary: Vocabulary, merges: Merges):
        self._vocabulary = vocabulary
        self._merges = merges
        self._library = _library(vocabulary, merges)
        self.vocab_size = len(vocabulary)
        self.eot_id = vocabulary[END_OF_TEXT]
        """Id of the end-of-text mark: 0 in every tokenizer that is trained here."""
        self._forget()

    @cached_property
    def sha256(self) -> str:
        """The identity: over vocabulary and merges, in whatever form a file has them."""
        essence = {"merges": self._merges, "vocabulary": self._vocabulary}
        canonical = json.dumps(essence, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end-of-text id.

        Raises:
            UserError: the text holds a lone surrogate, which no UTF-8 can express.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        batch: list[list[int]] = []
        for begins_text, ids in self._encode(texts):
            if begins_text:
                batch.append(ids)
            else:
                batch[-1] += ids
        return batch

    def join(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """The stream that a model learns from: each document behind an end-of-text id. [n_tokens]

        Raises:
            UserError: as for `encode`.
        """
        joined = [np.empty(0, np.int32)]
        for pieces in _groups(_pieces(document, PIECE) for document in documents):
            words: list[str] = []
            for begins_document, piece in pieces:
                if begins_document:
                    words.append(_START)
                words += _WORDS.findall(piece)
            joined.append(np.frombuffer(self._lookup(words), np.int32))
        return np.concatenate(joined)

    def _lookup(self, words: Sequence[str]) -> bytes:
        """The ids of words in a row, as bytes: the library is asked only for new words, as few are."""
        if self._n_known > KNOWN:
            self._forget()
        known = self._known  # as it is now: another thread may forget it
        new = [word for word in dict.fromkeys(words) if word not in known]
        if new:
            self._learn(new, known)
        return b"".join(map(known.__getitem__, words))

    def _forget(self) -> None:
        self._known = {_START: np.int32(self.eot_id).tobytes()}
        """The ids of the words met so far, as bytes: these are joined faster than lists or arrays."""
        self._n_known = 0
        """Bytes of these words."""

    def _learn(self, words: Sequence[str], known: dict[str, bytes]) -> None:
        """Have words encoded; the lengths of the tokens tell which are whose."""
        usual: list[str] = []
        others: list[str] = []
        for word in words:
            # A text of such words has exactly their ids, see `_pieces`.
            is_usual = word[0] in " \n" and not word[-1].isspace()
            (usual if is_usual else others).append(word)
        words = [*usual, *others]
        word_ends = np.cumsum([len(_utf8(word)) for word in words])
        starts = range(0, len(usual), _TOGETHER)
        texts = ["".join(usual[start : start + _TOGETHER]) for start in starts]
        encodings = self._library.encode_batch(texts + others, add_special_tokens=False)
        ids = np.fromiter(chain.from_iterable(each.ids for each in encodings), np.int32)
        token_ends = np.cumsum(self.byte_lengths[ids])
        bounds = [0, *((np.searchsorted(token_ends, word_ends) + 1) * ids.itemsize).tolist()]
        packed = ids.tobytes()
        for word, (begin, end) in zip(words, pairwise(bounds), strict=True):
            known[word] = packed[begin:end]
        self._n_known += int(word_ends[-1])

    def _encode(self, texts: Iterable[str]) -> Iterator[tuple[bool, list[int]]]:
        """The ids of each piece of each text, and whether the piece begins its text."""
        for pieces in _groups(_pieces(text, PIECE) for text in texts):
            try:
                encodings = self._library.encode_batch(
                    [piece for _, piece in pieces], add_special_tokens=False
                )
            except TypeError:  # what the library says of a string that is not valid text
                for _, piece in pieces:
                    _utf8(piece)
                raise
            for (begins_text, _), encoding in zip(pieces, encodings, strict=True):
                yield begins_text, encoding.ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 give U+FFFD, the end-of-text id nothing.

        Raises:
            IndexError: there is no such token.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

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
        byte_of = {char: byte for byte, char in enumerate(_byte_alphabet())}
        by_id = sorted(self._vocabulary, key=self._vocabulary.__getitem__)
        return [
            b"" if token == END_OF_TEXT else bytes(map(byte_of.__getitem__, token))
            for token in by_id
        ]

    @cached_property
    def byte_lengths(self) -> npt.NDArray[np.int32]:
        """Bytes of text behind each token, 0 for the end-of-text token. [vocab_size]"""
        return np.array([len(token) for token in self._token_bytes], np.int32)

    def stream(self) -> "StreamDecoder":
        """Decode token by token."""
        return StreamDecoder(self)

    def to_json(self) -> str:
        """A `tokenizer.json` as the tokenizers and transformers libraries read it."""
        library = _library(self._vocabulary, self._merges)
        library.add_special_tokens([END_OF_TEXT])
        return library.to_str()

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json") -> "Tokenizer":
        """The tokenizer that a `tokenizer.json` describes; messages say `where` it came from.

        Raises:
            UserError: not JSON, damaged, or a tokenizer of another kind.
        """
        try:
            specification = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not readable as JSON ({error}); train the tokenizer again"
            ) from None
        vocabulary, merges = _vocabulary_and_merges(specification, where)
        try:
            return cls(vocabulary, merges)
        except Exception:  # the library raises nothing narrower
            raise UserError(
                f"{where}: damaged (merges and vocabulary do not fit); train the tokenizer again"
            ) from None

    def save(self, folder: Path, report: dict[str, Any] | None = None) -> Path | None:
        """Write the folder in one step; an earlier tokenizer there moves to FOLDER.1 (.2, ...).

        Returns:
            Where the earlier tokenizer is now, if there was one.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        folder = folder.resolve()
        check_folder(folder)
        temporary = durable.temporary_name(folder)
        files = {
            "tokenizer.json": self.to_json(),
            "tokenizer_config.json": _as_json(
                {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "bos_token": END_OF_TEXT,
                    "eos_token": END_OF_TEXT,
                    "clean_up_tokenization_spaces": False,
                }
            ),
            REPORT: _as_json(
                {"vocab_size": self.vocab_size, "sha256": self.sha256} | (report or {})
            ),
        }
        moved = None
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                durable.write(temporary / name, content.encode())
            if (folder / "tokenizer.json").exists():
                moved = durable.set_aside(folder)
            temporary.rename(folder)
            durable.sync_folder(folder.parent)
        except OSError as error:
            raise UserError(
                f"{folder}: the tokenizer cannot be written ({error.strerror or error})"
            ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return moved

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """The tokenizer in a folder, or in a `tokenizer.json`.

        Raises:
            UserError: there is none, or see `from_json`.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"{path}: there is no tokenizer here; `homespun tokenizer` trains one"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not readable ({error})") from None
        return cls.from_json(text, str(file))


class StreamDecoder:
    """Ids in, text out as soon as its characters are complete: in all, what `decode` gives."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """What can be printed now; the bytes of an unfinished character are kept back."""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The end: U+FFFD for a character that stayed unfinished."""
        return self._utf8.decode(b"", final=True)


def train(
    documents: Iterable[str],
    vocab_size: int,
    *,
    max_bytes: int = TRAINING_BYTES,
    max_word_bytes: int = TRAINING_WORD_BYTES,
    or_less: bool = False,
) -> Tokenizer:
    """Learn the merges from the documents, or from a sample that is spread evenly over them.

    Equal documents give an equal tokenizer, on any machine. They are read once, in less than 1 GB.

    Args:
        documents: the text.
        vocab_size: number of tokens, from 257 on.
        max_bytes: bound of the sample, see `TRAINING_BYTES`.
        max_word_bytes: bound of the sample, see `TRAINING_WORD_BYTES`.
        or_less: where the text does not support that many, take what it supports.

    Raises:
        UserError: the vocabulary is too small for the bytes or too large for the text, or the text
            holds a lone surrogate.
    """
    from tokenizers import trainers

    if vocab_size <= len(_byte_alphabet()):
        raise UserError(
            f"a vocabulary of {vocab_size} has no room for the 256 bytes; take 257 or more"
        )
    pieces = chain.from_iterable(_pieces(document, TRAINING_PIECE) for document in documents)
    sample = _sample(pieces, max_bytes, max_word_bytes)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # what occurs once is not a pattern
        special_tokens=[END_OF_TEXT],
        initial_alphabet=_byte_alphabet(),
        show_progress=False,
    )
    library = _library({}, [])
    library.train_from_iterator(sample, trainer)
    learned = json.loads(library.to_str())["model"]
    size = len(learned["vocab"])
    if size < vocab_size and not or_less:
        raise UserError(
            f"the text supports a vocabulary of at most {size:,} tokens, not {vocab_size:,}: "
            f"take --vocab-size {size} or less, or more text"
        )
    return Tokenizer(learned["vocab"], [(left, right) for left, right in learned["merges"]])


def check_folder(folder: Path) -> None:
    """Make sure that a tokenizer can be written to a folder, and nothing but an earlier one gives way.

    Raises:
        UserError: the folder holds something else, or cannot be one.
    """
    folder = folder.resolve()
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise UserError(
            f"{folder}: a tokenizer needs a folder of its own; give another --output-dir"
        )
    try:
        is_free = not folder.exists() or not any(folder.iterdir())
        if is_free or (folder / "tokenizer.json").exists():
            return
    except OSError as error:
        raise UserError(
            f"{folder}: no folder for a tokenizer ({error.strerror or error})"
        ) from None
    raise UserError(f"{folder}: holds something else than a tokenizer; give another --output-dir")


def _library(vocabulary: Vocabulary, merges: Merges) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    library = Tokenizer(models.BPE(vocabulary, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte in a vocabulary: itself where that is printable.

    As in GPT-2's `bytes_to_unicode` (https://github.com/openai/gpt-2, src/encoder.py).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _pieces(text: str, limit: int) -> Iterator[str]:
    """A text in pieces of at most `limit` characters.

    They end before a space or line feed that follows other text. No token reaches across such a
    place, so the ids are those of the whole text. Only a run of `limit` characters that has none is
    cut anywhere.
    """
    if len(text) <= limit:
        yield text
        return
    rest, cut, forced = rf".{{1,{limit}}}\Z", rf".{{0,{limit - 1}}}\S(?=[ \n])", rf".{{{limit}}}"
    for match in re.finditer(f"(?s){rest}|{cut}|{forced}", text):
        yield match[0]


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


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half of a surrogate pair (\\u{ord(text[error.start]):04x}), "
            "which is no character: remove it"
        ) from None


def _sample(pieces: Iterable[str], max_bytes: int, max_word_bytes: int) -> list[str]:
    """All pieces, or every 2nd, 4th, ... of them: as many as fit both bounds, and at least one."""
    kept: list[str] = []
    stride, size = 1, _Size()
    for number, piece in enumerate(pieces):
        if number % stride:
            continue
        kept.append(piece)
        size.add(piece)
        while (size.n_bytes > max_bytes or size.word_bytes > max_word_bytes) and len(kept) > 1:
            kept, stride, size = kept[::2], 2 * stride, _Size()
            for piece in kept:
                size.add(piece)
    return kept


class _Size:
    """Memory of some text, and UTF-8 of the distinct words in it (letters, or signs, in a row)."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.word_bytes = 0
        self._words: set[str] = set()

    def add(self, text: str) -> None:
        self.n_bytes += sys.getsizeof(text)
        new = set(re.findall(r"\w+|[^\w\s]+", text)) - self._words
        self._words |= new
        self.word_bytes += sum(len(_utf8(word)) for word in new)


_OTHER_BPE = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
"""Options of BPE under which a text would be encoded otherwise."""


def _vocabulary_and_merges(specification: Any, where: str) -> tuple[Vocabulary, Merges]:
    """Those of a `tokenizer.json`, if they are all that its tokenizer is."""
    try:
        model = specification["model"]
        kind = model["type"]
        splitting = specification["pre_tokenizer"] or {}
        added = [token["content"] for token in specification["added_tokens"]]
        is_byte_level = (
            kind == "BPE"
            and splitting.get("type") == "ByteLevel"
            and not splitting["add_prefix_space"]
            and splitting.get("use_regex", True)
            and specification["normalizer"] is None
            and not any(model.get(option) for option in _OTHER_BPE)
        )
        if not is_byte_level:
            raise UserError(
                f"{where}: a tokenizer of another kind ({kind}); "
                "homespun reads byte-level BPE as GPT-2 has it"
            )
        vocabulary, merges = model["vocab"], [_pair(merge) for merge in model["merges"]]
        if END_OF_TEXT not in vocabulary or added != [END_OF_TEXT]:
            raise UserError(
                f"{where}: its special tokens are {', '.join(added) or 'none'}; "
                f"homespun reads a tokenizer with {END_OF_TEXT} and no other"
            )
        alphabet = set(_byte_alphabet())
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("ids have gaps or come twice")
        if set("".join(vocabulary)) != alphabet or not alphabet <= vocabulary.keys():
            raise ValueError("the vocabulary does not have exactly the 256 bytes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: not a tokenizer, or damaged ({error}); train the tokenizer again"
        ) from None
    return vocabulary, merges


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Written as "a b" by older versions of the library, as ["a", "b"] by newer ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
