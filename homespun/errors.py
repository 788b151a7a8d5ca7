"""The exception for errors that the user can fix.

Any part may raise it. The command line prints it as one line and exits with status 2.
"""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, where, and what to do."""


class DiskFullError(UserError):
    """A file could not be written because the disk is full. This may pass, so a caller may try again later."""


def cannot_write(error: OSError, message: str) -> UserError:
    """The exception with this message for a failed write: `DiskFullError` if the disk or quota is full."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DiskFullError(message) if full else UserError(message)


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Advice for an unknown word: the most similar known word, or `otherwise` if none is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise
