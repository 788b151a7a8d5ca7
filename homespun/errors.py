"""The one exception that means 'the user can mend this'.

Raised anywhere, printed as a single line by the command line (exit status 2); from Python it is an ordinary exception.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a word that is not known: take the one that is much like it, or `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise
