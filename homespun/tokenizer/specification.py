"""Any `tokenizer.json` of the `tokenizers` library flows in, the definition of a tokenizer flows out.

The library encodes. This module keeps special tokens out of texts and finds the text of each token.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from homespun.errors import UserError
from homespun.tokenizer.byte_level import byte_alphabet
from homespun.tokenizer.byte_level_bpe import END_OF_TEXT, merge_pair
from homespun.tokenizer.decoding import Decoding, known_decoding
from homespun.tokenizer.splitting import known_splitting

if TYPE_CHECKING:
    import tokenizers

Json = dict[str, Any]

MAX_VOCAB_SIZE = 1 << 22
"""A file with a larger id is damaged; the table of all tokens would fill the memory."""
DOCUMENT_ENDS = (END_OF_TEXT, "<|end_of_text|>")
"""Special tokens that separate documents in pre-training."""
SEQUENCE_ENDS = ("</s>", "<eos>", "<｜end▁of▁sentence｜>", "<|im_end|>", "<|eot_id|>")
"""Special tokens that end a text or a turn. They separate documents if there is no better one."""
SEPARATES = "separates_documents"
"""Marks the separator in `added_tokens` if another would be chosen otherwise. Other libraries ignore the mark."""


class Specification:
    """The definition of a tokenizer by its `tokenizer.json`, see `tokenizer.Definition`."""

    def __init__(self, text: str, eos_token: str | None = None, configured: str | None = None):
        """
        Args:
            text: the file. Truncation, padding and dropout in it are ignored.
            eos_token: the special token that separates documents, if the caller chooses it.
            configured: the end-of-sequence token of a `tokenizer_config.json`.

        Raises:
            UserError: a tokenizer that cannot be used here.
            Exception: not a tokenizer, or damaged; the library raises nothing narrower.
        """
        specification: Json = json.loads(text)
        model, added = specification["model"], _added_tokens(specification)
        self._text = text
        self._encoder = _encoder(specification)
        _check_ids(self._encoder, model, added)
        decoding = known_decoding(specification.get("decoder"))
        if decoding is None:
            raise UserError("its decoder is neither byte-level nor one of SentencePiece")
        if _type(model) == "Unigram" and model.get("unk_id") is None:
            raise UserError("its Unigram model has no token for unknown characters (unk_id)")
        self._token_bytes = _token_bytes(model, added, decoding)
        self.vocab_size = len(self._token_bytes)
        self._separator = _chosen_separator(added, eos_token, configured)
        self._is_marked = self._separator == _separator(added, None)
        self.special_ids: dict[str, int] = {
            token["content"]: token["id"] for token in added if token["special"]
        }
        _check_special_tokens(self._encoder, model, self.special_ids)
        self.eot_id: int = self.special_ids[self._separator]
        self.drops_first_space = decoding.drops_first_space
        normalizer = specification.get("normalizer")
        self.splitting = known_splitting(normalizer, specification.get("pre_tokenizer"), added)
        self.is_lossless = (
            self.splitting is not None
            and decoding.is_byte_level
            and normalizer is None
            and _type(model) == "BPE"
            and not model.get("continuing_subword_prefix")
            and not model.get("end_of_word_suffix")
            and model["vocab"].keys() >= set(byte_alphabet())
        )

    def encoder(self) -> "tokenizers.Tokenizer":
        return self._encoder

    def token_bytes(self) -> list[bytes]:
        return self._token_bytes

    def identity(self) -> Json:
        """Everything that determines the ids and their text, equal for old and new forms of a file."""
        specification = json.loads(self._text)
        stated = specification["model"]
        model = {
            option: value
            for option, value in stated.items()
            if not (option == "dropout" or value is None or value is False or value == "")
        }
        model["type"] = _type(stated)
        if model["type"] == "BPE":
            model["merges"] = [merge_pair(merge) for merge in stated["merges"]]
        added = [
            {option: value for option, value in token.items() if option != SEPARATES}
            for token in _added_tokens(specification)
        ]
        parts = ("normalizer", "pre_tokenizer", "decoder")
        return {part: specification.get(part) for part in parts} | {
            "model": model,
            "added_tokens": added,
            "eot_id": self.eot_id,
        }

    def to_json(self) -> str:
        if self._is_marked:
            return self._text
        specification = json.loads(self._text)
        for token in specification["added_tokens"]:
            token.pop(SEPARATES, None)
            if token["content"] == self._separator:
                token[SEPARATES] = True
        return json.dumps(specification, ensure_ascii=False)

    def special_names(self) -> dict[str, str]:
        return {"eos_token": self._separator}


def _added_tokens(specification: Json) -> list[Json]:
    return specification.get("added_tokens") or []


def _type(model: Json) -> str:
    """The type of the model, which older versions of the library leave out."""
    inferred = "Unigram" if isinstance(model["vocab"], list) else "BPE"
    return str(model.get("type", inferred))


def _pieces(model: Json) -> dict[int, str]:
    """The model's own vocabulary by id."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: pieces with their scores
        return {token: piece for token, (piece, _) in enumerate(vocab)}
    pieces = {token: piece for piece, token in vocab.items()}
    if len(pieces) != len(vocab):
        raise ValueError("two tokens have one id")
    return pieces


def _encoder(specification: Json) -> "tokenizers.Tokenizer":
    """The library's tokenizer, changed to encode the spelling of a special token as text."""
    import tokenizers

    model, added = dict(specification["model"]), _added_tokens(specification)
    special = {token["content"] for token in added if token["special"]}
    if isinstance(model["vocab"], list):
        # Unigram finds its pieces anywhere in a text. An empty piece is never found, and keeps its id.
        pieces = {piece for piece, _ in model["vocab"]}
        model["vocab"] = [
            ["" if piece in special else piece, score] for piece, score in model["vocab"]
        ]
        added = [token for token in added if not (token["special"] and token["content"] in pieces)]
    elif _type(model) == "BPE":
        # Files that were converted from SentencePiece may have merges that spell a special token.
        model["merges"] = [
            merge for merge in model["merges"] if "".join(merge_pair(merge)) not in special
        ]
    if "dropout" in model:
        model["dropout"] = None
    changed = {"model": model, "added_tokens": added, "truncation": None, "padding": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(specification | changed))
    library.encode_special_tokens = True
    return library


def _check_ids(library: "tokenizers.Tokenizer", model: Json, added: Sequence[Json]) -> None:
    """Check the ids in the file, since the library numbers added tokens itself.

    Raises:
        ValueError: the file has other ids than the library, or an id is too large.
    """
    pieces = _pieces(model)
    for token in added:
        name, number = token["content"], token["id"]
        if pieces.get(number) != name and library.token_to_id(name) != number:
            raise ValueError(f"the added token {name!r} cannot have the id {number}")
    if max(pieces, default=0) >= MAX_VOCAB_SIZE:
        raise ValueError(f"an id of {max(pieces)}")


def _token_bytes(model: Json, added: Sequence[Json], decoding: Decoding) -> list[bytes]:
    """The text of each id as bytes, empty for special tokens and unused ids."""
    by_id = {token: decoding.token_bytes(piece) for token, piece in _pieces(model).items()}
    for token in added:
        by_id[token["id"]] = b"" if token["special"] else token["content"].encode()
    return [by_id.get(token, b"") for token in range(max(by_id) + 1)]


def _separator(added: Sequence[Json], configured: str | None) -> str | None:
    """The special token that separates documents."""
    special = [token["content"] for token in added if token["special"]]
    marked = [token["content"] for token in added if token.get(SEPARATES)]
    candidates = (*marked, *DOCUMENT_ENDS, configured, *SEQUENCE_ENDS)
    return next((name for name in candidates if name in special), None)


def _chosen_separator(added: Sequence[Json], eos_token: str | None, configured: str | None) -> str:
    special = [token["content"] for token in added if token["special"]]
    if eos_token is not None and eos_token not in special:
        raise UserError(f"{eos_token} is not one of its special tokens ({_listed(special)})")
    separator = eos_token or _separator(added, configured)
    if separator is None:
        raise UserError(
            f"none of its special tokens ({_listed(special)}) is known to end a text; "
            "name one as eos_token in the tokenizer_config.json beside it"
        )
    return separator


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) or "none"


def _check_special_tokens(
    library: "tokenizers.Tokenizer", model: Json, special_ids: dict[str, int]
) -> None:
    """Check that the spelling of a special token is never encoded as this token.

    Raises:
        UserError: the spelling of one is.
    """
    unknown = (model.get("unk_token"), model.get("unk_id"))  # may stand for any text
    for name, number in special_ids.items():
        ids = library.encode(name, add_special_tokens=False).ids
        if number in ids and name != unknown[0] and number != unknown[1]:
            raise UserError(f"its special token {name!r} cannot be told from text")
