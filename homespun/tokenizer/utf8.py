"""Text flows in, UTF-8 flows out. Text that cannot be encoded gives one clear error."""

from homespun.errors import UserError


def utf8(text: str) -> bytes:
    """The UTF-8 of a text.

    Raises:
        UserError: the text holds a lone surrogate, which has no UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half of a surrogate pair (\\u{ord(text[error.start]):04x}), "
            "which is no character: remove it"
        ) from None
