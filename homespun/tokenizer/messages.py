"""The messages of a conversation, and the rules that they follow.

A conversation may begin with a message of the system. Then user and assistant alternate, and the user begins.
"""

from collections.abc import Sequence

from homespun.errors import UserError

Message = dict[str, str]
"""`role` and `content`."""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


def check_messages(messages: object, *, ends_with: str | None = None) -> list[Message]:
    """The messages, with white space at both ends of each removed.

    Args:
        messages: a list of objects with `role` and `content`.
        ends_with: the role of the last message, if it matters.

    Raises:
        UserError: names the message, its field, and what is wrong with it.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError("messages: a list of messages is expected, each with a role and a content")
    checked: list[Message] = []
    for number, message in enumerate(messages):
        here = f"messages[{number}]"
        if not isinstance(message, dict):
            raise UserError(f"{here}: an object with `role` and `content` is expected")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"{here}.role: {role!r:.60} is none of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise UserError(f"{here}.content: {content!r:.60} is not a text")
        before = checked[-1]["role"] if checked else None
        if reason := _out_of_order(role, before):
            raise UserError(f"{here}.role: {reason}")
        if not content.strip():
            raise UserError(f"{here}.content: it is empty")
        checked.append({"role": role, "content": content.strip()})
    if ends_with not in (None, checked[-1]["role"]):
        raise UserError(
            f"messages[{len(checked) - 1}].role: the last message has to be one of the {ends_with}"
        )
    return checked


def _out_of_order(role: str, before: str | None) -> str | None:
    """The reason why a message with this role cannot follow one with the role `before`, if there is one."""
    if role == SYSTEM:
        return None if before is None else "a system message can only be the first"
    expected = USER if before in (None, SYSTEM, ASSISTANT) else ASSISTANT
    if role == expected:
        return None
    after = f"follows {before}" if before else "comes first"
    return f"{role} {after}, where {expected} is expected: user and assistant alternate"
