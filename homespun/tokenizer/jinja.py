"""The source of a chat template flows in, a function that renders it flows out.

The source came with a model from elsewhere, so it is a program that nobody has read. It runs in the sandbox that the
`transformers` library uses, with the bounds of `jinja_bounds`.
"""

import re
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from homespun.errors import UserError
from homespun.tokenizer.jinja_bounds import Bounded

MAX_SOURCE = 1 << 16
"""Characters of a template; the longest known ones have about 15,000."""


class _Unknown(jinja2.Undefined):
    """A name without a value: it can be tested, but not written. A field that a message does not have is empty."""

    def __str__(self) -> str:
        if self._undefined_obj is jinja2.utils.missing:
            self._fail_with_undefined_error()
        return ""


class _Counting(NodeTransformer):
    """Adds a call to each round of a loop (macros are called already), joins texts with "+", which is checked, and
    counts the lists that are stated and the parts that are taken."""

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

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """An item, or a part such as [1:]."""
        self.generic_visit(node)
        return _counted(node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        """A list that is stated."""
        self.generic_visit(node)
        return _counted(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        """A dictionary that is stated."""
        self.generic_visit(node)
        return _counted(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        """A tuple that is stated, or some names that get values."""
        self.generic_visit(node)
        return _counted(node) if node.ctx == "load" else node


def _counted(node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, "counted", [], [], None, None)


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
    environment = Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        undefined=_Unknown,
    )
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
