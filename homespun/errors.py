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


class FolderInUseError(UserError):
    """Another process uses the folder. This may pass, so a caller may wait."""


class ResourceError(UserError):
    """The process has too many open files or too little memory. The file that was to be opened may be whole."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESOURCES = {
    errno.EMFILE: "allow more open files first, for example with: ulimit -n 1024",
    errno.ENFILE: "close other programs, which have too many files open",
    errno.ENOMEM: "close other programs, or give this one more memory",
}


def cannot_write(error: OSError, what: str, otherwise: str) -> UserError:
    """The exception for a failed write: `DiskFullError` if the disk or quota is full.

    Args:
        error: the cause.
        what: the beginning of the message, such as "FILE cannot be written".
        otherwise: advice unless the cause is a full disk or a lack of resources, such as "choose another folder".
    """
    if error.errno in _FULL:
        return DiskFullError(f"{what} ({_reason(error)}): make room there, or {otherwise}")
    return cannot_read(error, what, otherwise)


def cannot_read(error: OSError, what: str, otherwise: str = "") -> UserError:
    """The exception for a failed reading: `ResourceError` if the file is not at fault; see `cannot_write`."""
    if advice := _RESOURCES.get(error.errno or 0):
        return ResourceError(f"{what} ({_reason(error)}): {advice}")
    advice = "check the disk" if error.errno == errno.EIO else otherwise
    return UserError(f"{what} ({_reason(error)})" + (advice and f": {advice}"))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Advice for an unknown word: the most similar known word, or `otherwise` if none is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise
