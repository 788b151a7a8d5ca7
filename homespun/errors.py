"""The one exception that means 'the user can mend this'.

Raised anywhere, printed as a single line by the command line (exit status 2); from Python it is an ordinary exception.
"""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


class DiskFullError(UserError):
    """There is no room for a file. This may pass, so those who can wait may try again."""


def cannot_write(error: OSError, message: str) -> UserError:
    """The exception for a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DiskFullError(message) if full else UserError(message)


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a word that is not known: take the one that is much like it, or `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise
