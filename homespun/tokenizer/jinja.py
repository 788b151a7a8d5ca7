"""The source of a chat template flows in, a function that renders it flows out.

The source came with a model from elsewhere, so it is a program that nobody has read. It runs in the sandbox that the
`transformers` library uses. Its loops, calls and texts are bounded, so that one without end is an error. (A template
that is made to fill the memory can still do so.)
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from homespun.errors import UserError

MAX_SOURCE = 1 << 16
"""Characters of a template; the longest known ones have about 15,000."""
MAX_ROUNDS = 100_000
"""Rounds of loops, and calls, in rendering one conversation, besides `ROUNDS_PER_PAIR`."""
ROUNDS_PER_PAIR = 10
"""Rounds for each pair of messages, since a template may compare each message with all others."""
MAX_SIZE = 1 << 22
"""Characters of a text, or items of a list, that a template makes, besides `SIZE_PER_CHARACTER`."""
SIZE_PER_CHARACTER = 4
"""The same for each character of the messages."""
MAX_BITS = 1024
"""Of a product."""


class _Unknown(jinja2.Undefined):
    """A name without a value: it can be tested, but not written. A field that a message does not have is empty."""

    def __str__(self) -> str:
        if self._undefined_obj is jinja2.utils.missing:
            self._fail_with_undefined_error()
        return ""


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox with a number of rounds for each text that it renders."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.next_round = _next_round
        self._here = threading.local()

    def begin(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Set the bounds of the text of these messages, which this thread renders next."""
        characters = sum(len(message["content"]) for message in messages)
        self._here.rounds = MAX_ROUNDS + ROUNDS_PER_PAIR * len(messages) ** 2
        self._here.size = MAX_SIZE + SIZE_PER_CHARACTER * characters

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call anything from a template."""
        self._here.rounds -= 1
        if self._here.rounds < 0:
            raise jinja2.TemplateError("it goes round too often")
        return function is _next_round or super().call(context, function, *arguments, **named)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Add, repeat, multiply, or raise to a power."""
        if operator == "+":
            result = left + right
            if isinstance(result, str | list | tuple):
                self._check(len(result))
            return result
        if operator == "**":
            raise jinja2.TemplateError("it raises to a power, which no template has to")
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_BITS:
                raise jinja2.TemplateError("it makes a number that is too large")
        elif isinstance(left, Sized) and isinstance(right, int):
            self._check(len(left) * right)
        elif isinstance(left, int) and isinstance(right, Sized):
            self._check(left * len(right))
        return left * right

    def concat(self, pieces: Iterable[str]) -> str:
        """The text that these pieces make."""
        kept, room = [], self._here.size
        for piece in pieces:
            kept.append(piece)
            room -= len(piece)
            if room < 0:
                break
        self._check(self._here.size - room)
        return "".join(kept)

    def _check(self, size: int) -> None:
        if size > self._here.size:
            raise jinja2.TemplateError("it makes a text or a list that is too long")


def _next_round() -> bool:
    """Called in each round of a loop, so that it is counted."""
    return True


class _Counting(NodeTransformer):
    """Adds a call to each round of a loop (macros are called already), and joins texts with "+", which is checked."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A loop, and those in it."""
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("next_round"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call))
        if node.test is not None:
            node.test = nodes.And(call, node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        """Texts that are joined with "~"."""
        self.generic_visit(node)
        joined: nodes.Expr = nodes.Const("")
        for one in node.nodes:
            joined = nodes.Add(joined, nodes.Filter(one, "string", [], [], None, None))
        return joined


def _refuse(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def compiled(source: str) -> Callable[[dict[str, Any]], str]:
    """The function that renders a template, with the environment of the `transformers` library
    (`chat_template_utils.py`), except that a name without a value cannot be written.

    Raises:
        UserError: the template cannot be read. The function raises it if the template refuses its values.
    """
    if len(source) > MAX_SOURCE:
        raise UserError(
            f"its chat template has {len(source):,} characters, more than any known one"
        )
    environment = _Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        undefined=_Unknown,
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    for endless in ("center", "batch", "slice", "format", "wordwrap"):
        del environment.filters[endless]
    del environment.globals["lipsum"]
    try:
        tree = _Counting().visit(environment.parse(_without_generation_tags(source)))
        code = environment.compile(tree)
        template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    except (jinja2.TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise UserError(f"its chat template cannot be read ({error}{where})") from None

    def render(values: dict[str, Any]) -> str:
        environment.begin(values["messages"])
        try:
            return template.render(values)
        except jinja2.UndefinedError as error:
            raise UserError(f"its chat template uses an unknown name: {error}") from None
        except Exception as error:  # of the template's own code
            raise UserError(f"its chat template refuses the conversation: {error}") from None

    return render


def _without_generation_tags(source: str) -> str:
    """The template without the tags that mark answers for `transformers`; they write nothing."""
    return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", _blank_tag, source)


def _blank_tag(tag: "re.Match[str]") -> str:
    """A tag that writes nothing and removes the same white space around it."""
    begin, end = tag[0][:3].rstrip(), tag[0][-3:].lstrip()
    return f"{begin if begin == '{%-' else '{%'} set _ = 0 {end if end == '-%}' else '%}'}"
