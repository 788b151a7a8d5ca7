"""The body of a request flows in, checked values flow out: each with its bounds, none that is not known.

JSON is taken strictly: no NaN, no infinite numbers, no lone surrogates, no NUL.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from homespun.config.checked import shown
from homespun.server.answers import Unanswerable


def refuse(param: str, message: str) -> NoReturn:
    """
    Raises:
        Unanswerable: always, with status 400.
    """
    raise Unanswerable(400, message, param)


class Fields:
    """The fields of a JSON object. Each is taken once; `end` refuses what is left over. null means absent."""

    def __init__(self, body: bytes) -> None:
        """
        Raises:
            Unanswerable: this is no JSON object.
        """
        try:
            value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        except RecursionError:
            raise Unanswerable(400, "the JSON is nested too deeply") from None
        except ValueError as error:  # also for other encodings, and integers of thousands of digits
            raise Unanswerable(400, f"the body is not valid JSON in UTF-8: {error}") from None
        self._fields = self._object("the body", value)

    @classmethod
    def of(cls, where: str, value: Any) -> "Fields":
        """The fields of an object inside another one."""
        made = cls.__new__(cls)
        made._fields = cls._object(where, value)
        return made

    @staticmethod
    def _object(where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            refuse(where, f"{where} is {shown(value)}: an object with fields is expected")
        for name in value:
            checked_text(where, name)
        return {name: field for name, field in value.items() if field is not None}

    def end(self, where: str = "") -> None:
        """Refuse fields that nobody has taken."""
        for name in self._fields:
            refuse(name, f"unknown field {shown(where + name)}")

    def any(self, name: str, default: Any = None) -> Any:
        return self._fields.pop(name, default)

    def integer(self, name: str, default: Any, least: int, most: int) -> Any:
        """A whole number from `least` to `most`, or the default."""
        if name not in self._fields:
            return default
        value = self._fields.pop(name)
        if type(value) is not int or not least <= value <= most:
            refuse(
                name,
                f"{name} is {shown(value)}: a whole number from {least:,} to {most:,} is expected",
            )
        return value

    def number(
        self, name: str, default: float, least: float, most: float, or_else: float | None = None
    ) -> float:
        """A number from `least` to `most`, or this other one."""
        value = self._fields.pop(name, default)
        # NaN compares as false, and integers of any size compare without overflow.
        if type(value) not in (int, float) or not (least <= value <= most or value == or_else):
            other = "" if or_else is None else f"{or_else:g}, or "
            refuse(
                name,
                f"{name} is {shown(value)}: {other}a number from {least:g} to {most:g} is expected",
            )
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._fields.pop(name, default)
        if type(value) is not bool:
            refuse(name, f"{name} is {shown(value)}: true or false is expected")
        return value

    def text(self, name: str) -> str | None:
        value = self._fields.pop(name, None)
        return None if value is None else checked_text(name, value)

    def needed_text(self, name: str) -> str:
        """A text that has to be there. It may be empty."""
        if name not in self._fields:
            refuse(name, f"{name} is missing: a text is expected")
        return checked_text(name, self._fields.pop(name))

    def needed_integer(self, name: str) -> int:
        """A whole number of any size that has to be there."""
        value = self._fields.pop(name, None)
        if type(value) is not int:
            refuse(name, f"{name} is {shown(value)}: a whole number is expected")
        return value

    def settings(self, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """The input of a form, by the names of its settings, or the default. Here the texts are checked; the form
        checks kinds and bounds."""
        given = self._object(name, self._fields.pop(name, default))
        for setting, value in given.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    checked_text(setting, text)
        return given

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse every other value: a field of OpenAI's API that changes nothing here."""
        value = self._fields.pop(name, allowed[0])
        if not any(type(value) is type(one) and value == one for one in allowed):
            refuse(name, f"{name} is {shown(value)}: this server has only {shown(allowed[0])}")

    def texts(self, name: str, most: int, longest: int) -> tuple[str, ...]:
        """One text, or a list of them, none of them empty."""
        value = self._fields.pop(name, ())
        several = value if isinstance(value, list) else [value] if value != () else []
        if len(several) > most:
            refuse(name, f"{name} has {len(several):,} texts: at most {most:,} are possible")
        for text in several:
            if not checked_text(name, text) or len(text) > longest:
                refuse(
                    name,
                    f"{name} has a text of {len(text):,} characters: 1 to {longest:,} are possible",
                )
        return tuple(several)

    def biases(self, name: str, vocab_size: int, most: int, largest: float) -> Mapping[int, float]:
        """Numbers by token id, which JSON writes as text."""
        fields = Fields.of(name, self._fields.pop(name, {}))._fields
        if len(fields) > most:
            refuse(name, f"{name} has {len(fields):,} tokens: at most {most:,} are possible")
        biases = {}
        for token, value in fields.items():
            is_id = token.isascii() and token.isdigit() and len(token) < 10
            if not is_id or int(token) >= vocab_size:
                refuse(
                    name,
                    f"{name} has the token {shown(token)}: ids from 0 to {vocab_size - 1:,} are tokens",
                )
            if type(value) not in (int, float) or not abs(value) <= largest:
                refuse(
                    name,
                    f"{name} is {shown(value)} for token {token}: -{largest:g} to {largest:g} is possible",
                )
            biases[int(token)] = float(value)
        return biases


def checked_text(name: str, value: Any) -> str:
    """A text that has a UTF-8 form and no NUL."""
    if not isinstance(value, str):
        refuse(name, f"{name} is {shown(value)}: a text is expected")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(name, f"{name} has a lone surrogate, which is no character")
    if "\0" in value:
        refuse(name, f"{name} has the character NUL")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
