"""The kind of tokenizer that is trained here: byte-level BPE, GPT-2's splitting, one special token.

Vocabulary and merges define it completely. GPT-2's own tokenizer is of this kind.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from homespun.tokenizer.byte_level import byte_alphabet, token_bytes
from homespun.tokenizer.splitting import BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE, Splitting

if TYPE_CHECKING:
    import tokenizers

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]

END_OF_TEXT = "<|endoftext|>"
"""The special token that separates documents."""

_CHANGES_IDS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
"""Options of a BPE model that give a text other ids."""


@dataclass(frozen=True)
class ByteLevelBPE:
    """A tokenizer's definition, see `tokenizer.Definition`."""

    splitting: ClassVar[Splitting] = BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE
    is_lossless: ClassVar[bool] = True
    drops_first_space: ClassVar[bool] = False

    vocabulary: Vocabulary
    merges: Merges

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def eot_id(self) -> int:
        return self.vocabulary[END_OF_TEXT]

    @property
    def special_ids(self) -> dict[str, int]:
        return {END_OF_TEXT: self.eot_id}

    def encoder(self) -> "tokenizers.Tokenizer":
        """The library's tokenizer without the special token, so that its spelling is encoded as text."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        library = Tokenizer(models.BPE(self.vocabulary, self.merges))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        return library

    def token_bytes(self) -> list[bytes]:
        by_id = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        return [b"" if token == END_OF_TEXT else token_bytes(token) for token in by_id]

    def identity(self) -> Any:
        return {"merges": self.merges, "vocabulary": self.vocabulary}

    def to_json(self) -> str:
        library = self.encoder()
        library.add_special_tokens([END_OF_TEXT])
        return library.to_str()

    def special_names(self) -> dict[str, str]:
        return {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}

    @classmethod
    def from_specification(cls, specification: Any) -> "ByteLevelBPE | None":
        """The definition in a parsed `tokenizer.json`; None if it describes another kind."""
        try:
            model, splitting = specification["model"], specification["pre_tokenizer"]
            vocabulary, merges = model["vocab"], [merge_pair(merge) for merge in model["merges"]]
            is_of_this_kind = (
                model.get("type", "BPE") == "BPE"
                and not any(model.get(option) for option in _CHANGES_IDS)
                and splitting["type"] == "ByteLevel"
                and not splitting["add_prefix_space"]
                and splitting.get("use_regex", True)
                and specification["normalizer"] is None
                and [token["content"] for token in specification["added_tokens"]] == [END_OF_TEXT]
                and END_OF_TEXT in vocabulary
                and sorted(vocabulary.values()) == list(range(len(vocabulary)))
                and set("".join(vocabulary)) == set(byte_alphabet()) <= vocabulary.keys()
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(vocabulary, merges) if is_of_this_kind else None


def merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """Older versions of the library write "a b", newer ones ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
