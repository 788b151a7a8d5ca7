"""The one exception that means 'the user can mend this'.

Raised anywhere, printed as a single line by the command line (exit status 2); from Python it is an ordinary exception.
"""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""
