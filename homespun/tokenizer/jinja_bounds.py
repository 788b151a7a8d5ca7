"""A chat template's operations flow in; the same operations flow out with bounds on rounds, sizes and memory.

A template is a program that nobody has read. Only operations that known templates need are there, and each text, list
and dictionary that one of them makes is counted before it is made, or is at most a few times as large as what was
counted already. So a template that is made to fill the memory is an error.
"""

import functools
import json
import re
import string
import threading
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    KeysView,
    Mapping,
    Sequence,
    Sized,
    ValuesView,
)
from typing import Any, NoReturn

import jinja2
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

MAX_ROUNDS = 100_000
"""Rounds of loops, and calls, in rendering one conversation, besides `ROUNDS_PER_PAIR`."""
ROUNDS_PER_PAIR = 10
"""Rounds for each pair of messages, since a template may compare each message with all others."""
MAX_SIZE = 1 << 22
"""Characters of a text, or items of a list, that a template makes, besides `SIZE_PER_CHARACTER`."""
SIZE_PER_CHARACTER = 4
"""The same for each character of the messages."""
MAX_TOTAL = 16
"""All texts and lists that a template makes, in texts of the largest size."""
TOTAL_PER_MESSAGE = 2
"""The same for each message, in characters of all messages, since a template may put its text together message by
message."""
ITEM = 8
"""Characters for which an item of a list counts, besides its own."""
MAX_BITS = 1024
"""Of a product."""
MAX_WIDTH = 1000
"""Of a field that a format fills up, in characters."""
MAX_DIGITS = 20
"""To which a number is rounded."""
FIELD = re.compile(r"%(?:\([^()%]{0,64}\))?[#0 +-]*(\*|\d+)?(?:\.(\*|\d+))?")
"""A field of a text before "%", with its width and its precision."""
ODD_NAME = re.compile(r"%\((?![^()%]{0,64}\))")
"""The name of a field that `FIELD` does not read as Python does, such as one with parentheses."""

TEXT_METHODS = {
    *("capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha"),
    *("isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower"),
    *("lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition"),
    *("rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper"),
}  # fmt: skip
"""Those of a text that a template may call. The others make bytes, or fill a text up to any width."""
METHODS: dict[type, set[str]] = {
    str: TEXT_METHODS,
    dict: {"get", "items", "keys", "values"},
    list: {"count", "index"},
    tuple: {"count", "index"},
    int: set(),
    float: set(),
    bytes: set(),
}
OF_TEXTS = (
    *("capitalize", "e", "escape", "forceescape", "lower", "striptags", "title", "trim", "truncate"),
    *("upper", "wordcount"),
)  # fmt: skip
"""Filters that take a value as a text."""
OF_VALUES = (
    *("abs", "attr", "count", "d", "default", "dictsort", "filesizeformat", "first", "float", "groupby"),
    *("int", "items", "last", "length", "list", "map", "max", "min", "reject", "rejectattr", "reverse"),
    *("safe", "select", "selectattr", "sort", "unique"),
)  # fmt: skip
"""Filters whose result is not larger than their value."""


class Bounded(ImmutableSandboxedEnvironment):
    """The sandbox of the `transformers` library, with bounds for each text that it renders."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        # Nothing is computed before `begin`, not even constants.
        super().__init__(optimized=False, finalize=self._written(), **options)
        self.next_round = _next_round
        self._here = threading.local()
        self.globals["raise_exception"] = _refuse
        for name in ("cycler", "joiner", "lipsum"):
            del self.globals[name]
        whole = {name: self._counting(FILTERS[name]) for name in OF_VALUES}
        texts = {name: self._counting(FILTERS[name], as_text=True) for name in OF_TEXTS}
        own = (self._join, self._replace, self._indent, self._round, self._string, self._tojson)
        self.filters = {
            **whole,
            **texts,
            **{one.__name__.strip("_"): one for one in own},
            "counted": self._counted,
        }

    def begin(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Set the bounds of the text of these messages, which this thread renders next."""
        characters = sum(len(message["content"]) for message in messages)
        self._here.rounds = MAX_ROUNDS + ROUNDS_PER_PAIR * len(messages) ** 2
        self._here.size = MAX_SIZE + SIZE_PER_CHARACTER * characters
        self._here.room = (
            MAX_TOTAL * self._here.size + TOTAL_PER_MESSAGE * len(messages) * characters
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute."""
        for kind, names in METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call anything from a template."""
        self._here.rounds -= 1
        if self._here.rounds < 0:
            raise jinja2.TemplateError("it goes round too often")
        if function is _next_round:
            return True
        self.count_whole((*arguments, *named.values()))  # a callee may keep them, such as `dict`
        of, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(of, str) and name == "join":
            return self._join(self, arguments[0], of)
        if isinstance(of, str) and name == "replace":
            return self._replace(of, *arguments, **named)
        return self._counted_result(super().call(context, function, *arguments, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The method `format` of a text, bounded."""
        if super().wrap_str_format(value) is None:
            return None
        text, formatter = str(value.__self__), _Formatter(self)

        def formatted(*arguments: Any, **named: Any) -> str:
            return formatter.vformat(text, arguments, named)

        return formatted

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Add, repeat, multiply, raise to a power, or take a remainder or format."""
        if operator == "+":
            return self._counted_result(left + right)
        if operator == "**":
            raise jinja2.TemplateError("it raises to a power, which no template has to")
        if operator == "%":
            if isinstance(left, str):
                self._check_format(left, right)
            return left % right
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_BITS:
                raise jinja2.TemplateError("it makes a number that is too large")
        elif isinstance(left, Sized) and isinstance(right, int):
            self.count(len(left) * right)
        elif isinstance(left, int) and isinstance(right, Sized):
            self.count(left * len(right))
        return left * right

    def concat(self, pieces: Iterable[str]) -> str:
        """The text that these pieces make."""
        kept, room = [], self._here.size
        for piece in pieces:
            kept.append(piece)
            room -= len(piece)
            if room < 0:
                break
        self.count(self._here.size - room)
        return "".join(kept)

    def count(self, size: int) -> None:
        """Count a text or a list of this size before it is made. Raises TemplateError: it is too large."""
        self._here.room -= max(0, size)
        if size > self._here.size:
            raise jinja2.TemplateError("it makes a text or a list that is too long")
        if self._here.room < 0:
            raise jinja2.TemplateError("the texts and lists that it makes are too long together")

    def text(self, value: Any) -> str:
        """A value as a text. Raises TemplateError: that would be too long."""
        if isinstance(value, str):
            return value
        self.count_whole(value)
        return str(value)

    def count_whole(self, value: Any) -> None:
        """Count a value with all that is in it, as often as it is in it. Raises TemplateError: it is too large."""
        size, waiting, most = 0, [value], self._here.size
        while waiting and size <= most:
            one = waiting.pop()
            if isinstance(one, str):
                size += len(one)
            elif isinstance(one, Mapping):
                waiting += [*one.keys(), *one.values()]
                size += 2 * ITEM * len(one)
            elif isinstance(
                one, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView
            ):
                waiting += one
                size += ITEM * len(one)
            elif isinstance(one, jinja2.utils.Namespace):
                raise jinja2.TemplateError("it writes a namespace")
            else:
                size += 1
        self.count(size)

    def _counted_result(self, result: Any) -> Any:
        if isinstance(result, str):
            self.count(len(result))
        elif isinstance(result, Sized) and not isinstance(result, range):
            self.count(ITEM * len(result))
        return result

    def _written(self) -> Callable[..., Any]:
        """Called with each value that a template writes."""

        @jinja2.pass_context
        def written(context: Any, value: Any) -> Any:
            return value if isinstance(value, jinja2.Undefined) else self.text(value)

        return written

    def _counting(self, taken: Callable[..., Any], *, as_text: bool = False) -> Callable[..., Any]:
        """A filter of the library, with its arguments and its result counted."""

        @functools.wraps(taken)  # with the mark of filters that get the environment
        def counting(*arguments: Any, **named: Any) -> Any:
            for one in arguments if as_text else ():
                if isinstance(one, list | tuple | Mapping):
                    self.count_whole(one)
            return self._counted_result(taken(*arguments, **named))

        return counting

    # The filters that can make a text of any length from short ones.

    def _counted(self, value: Any) -> Any:
        """Lists that a template states, and parts of texts."""
        if isinstance(value, str):
            self.count(len(value))
        else:
            self.count_whole(value)
        return value

    @jinja2.pass_environment
    def _join(
        self, environment: Any, value: Iterable[Any] = (), d: Any = "", attribute: Any = None
    ) -> str:
        if attribute is not None:
            value = map(make_attrgetter(self, attribute), value)
        pieces = [self.text(one) for one in value]
        between = self.text(d)
        self.count(sum(map(len, pieces)) + len(between) * len(pieces))
        return between.join(pieces)

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        whole, before, after = map(self.text, (s, old, new))
        n = whole.count(before)
        n = n if count is None or count < 0 else min(n, count)
        self.count(len(whole) + n * len(after))
        return whole.replace(before, after, -1 if count is None else count)

    def _indent(
        self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        whole = self.text(s)
        by = len(width) if isinstance(width, str) else width
        self.count(by)
        self.count(len(whole) + by * (1 + len(whole.splitlines())))
        return str(FILTERS["indent"](whole, width, first, blank))

    def _round(self, value: Any, precision: int = 0, method: str = "common") -> Any:
        if abs(precision) > MAX_DIGITS:
            raise jinja2.TemplateError("it rounds to more digits than numbers have")
        return FILTERS["round"](value, precision, method)

    def _string(self, value: Any) -> str:
        return self.text(value)

    def _tojson(self, value: Any, indent: int | None = None) -> str:
        self.count_whole(value)
        if indent is not None and not 0 <= indent <= MAX_DIGITS:
            raise jinja2.TemplateError("it indents JSON by too much")
        return self.concat(json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value))

    def _check_format(self, form: str, values: Any) -> None:
        """Check the text that "%" makes before it is made."""
        if ODD_NAME.search(form):
            raise jinja2.TemplateError("it formats a field with an odd name")
        self.count(MAX_WIDTH * form.count("%"))
        _check_widths(width for field in FIELD.finditer(form) for width in field.groups() if width)
        given = values if isinstance(values, tuple) else (values,)
        n = form.count("%")
        for one in given:
            self.count_whole(one)
        largest = max((len(str(one)) for one in given), default=0)
        self.count(len(form) + n * largest)


class _Formatter(SandboxedFormatter):
    """The method `format` of texts; each field is counted."""

    def __init__(self, environment: Bounded) -> None:
        super().__init__(environment)
        self._bounds = environment

    def format_field(self, value: Any, format_spec: str) -> Any:
        """The text of a field."""
        _check_widths(re.findall(r"\d+", format_spec))
        if not isinstance(value, str | int | float):
            value = self._bounds.text(value)
        made = string.Formatter.format_field(self, value, format_spec)
        self._bounds.count(len(made))
        return made

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """A value as `!s` or `!r` makes it."""
        if conversion:
            self._bounds.count_whole(value)
        return super().convert_field(value, conversion)


def _check_widths(widths: Iterable[str]) -> None:
    """Raises TemplateError: a field of a format is too wide, or its width is a value ("*")."""
    if any(
        len(width) > len(str(MAX_WIDTH)) or width == "*" or int(width) > MAX_WIDTH
        for width in widths
    ):
        raise jinja2.TemplateError("it fills texts up to a width with which they may be too long")


def _next_round() -> bool:
    """Called in each round of a loop, so that it is counted."""
    return True


def _refuse(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))
