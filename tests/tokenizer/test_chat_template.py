"""Templates give the ids that `transformers` gives, know which of them are answers, and cannot be forged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerFast

from homespun.errors import UserError
from homespun.tokenizer import ChatTemplate, Message, Rendered, Tokenizer, check_messages, train
from homespun.tokenizer.chat_template import OWN
from homespun.tokenizer.jinja import compiled
from tests.tokenizer import kinds
from tests.tokenizer.conftest import story_texts

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As of SmolLM2 and Qwen 2."""
MARKED = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""With the tags by which `transformers` knows the answers."""
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
CASES = {
    "own": ("gpt2", OWN, "<|endoftext|>", "<|endoftext|>"),
    "own on llama2": ("llama2", OWN, "</s>", "</s>"),
    "chatml": ("smollm2", CHATML, "<|im_start|>", "<|im_end|>"),
    "marked": ("qwen", MARKED, "<|endoftext|>", "<|im_end|>"),
    "llama3": ("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "llama2": ("llama2", LLAMA2, "<s>", "</s>"),
    "zephyr": ("llama2", ZEPHYR, "<s>", "</s>"),
}
EACH = pytest.mark.parametrize("case", CASES)
TALK = check_messages(
    [
        {"role": "user", "content": "Who has the ball?"},
        {"role": "assistant", "content": "  Anna has it, once upon a time."},
        {"role": "user", "content": "Where?\n\n中文字 größer"},
        {"role": "assistant", "content": "In\nthe barn."},
    ]
)


def both(case: str) -> tuple[ChatTemplate, Any]:
    """Our template and the tokenizer of `transformers` with it."""
    kind, source, bos, eos = CASES[case]
    tokenizer = Tokenizer.from_json(kinds.as_json(kind))
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=kinds.KINDS[kind](), bos_token=bos, eos_token=eos
    )
    theirs.chat_template = source
    return ChatTemplate(tokenizer, source, {"bos_token": bos, "eos_token": eos}), theirs


def as_theirs(theirs: Any, messages: list[Message], **options: Any) -> list[int]:
    found = theirs.apply_chat_template(messages, return_dict=True, **options)
    ids: list[int] = found["input_ids"]
    return ids


def answers(template: ChatTemplate, rendered: Rendered) -> list[list[int]]:
    """The ids of each answer."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], rendered.in_answer, [0]))))
    return [
        rendered.ids[begin:end].tolist() for begin, end in zip(edges[::2], edges[1::2], strict=True)
    ]


@EACH
def test_ids_are_those_of_transformers(case: str) -> None:
    template, theirs = both(case)
    assert template.render(TALK).ids.tolist() == as_theirs(theirs, TALK)
    for asked in (TALK[:1], TALK[:3]):
        expected = as_theirs(theirs, asked, add_generation_prompt=True)
        assert template.prompt(asked) == expected


@EACH
def test_answers_are_what_follows_the_prompt_up_to_the_end_of_the_turn(case: str) -> None:
    template, _ = both(case)
    rendered = template.render(TALK)
    first, second = answers(template, rendered)
    for asked, answer in ((TALK[:1], first), (TALK[:3], second)):
        prompt = template.prompt(asked)
        found = rendered.ids[: len(prompt) + len(answer)].tolist()
        assert found == prompt + answer
        assert answer[-1] == template.end_id
        assert template.end_id not in answer[:-1]
    texts = [template.tokenizer.decode(one, continued=True).strip() for one in (first, second)]
    assert texts == ["Anna has it, once upon a time.", "In\nthe barn."]


def test_the_tags_of_transformers_agree() -> None:
    template, theirs = both("marked")
    found = theirs.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    assert template.render(TALK).in_answer.tolist() == [
        bool(one) for one in found["assistant_masks"]
    ]


def test_the_template_of_models_without_one() -> None:
    tokenizer = train(story_texts(50), 300)
    template = ChatTemplate(tokenizer)
    rendered = template.render([{"role": "system", "content": "S"}, *TALK[:2]])
    pieces = [[0], "system\nS", [0], "user\nWho has the ball?", [0], "assistant\n"]
    question = [i for p in pieces for i in (p if isinstance(p, list) else tokenizer.encode(p))]
    answer = tokenizer.encode("Anna has it, once upon a time.")
    assert rendered.ids.tolist() == [*question, *answer, 0]
    assert rendered.in_answer.tolist() == [False] * len(question) + [True] * (len(answer) + 1)


@EACH
def test_no_message_can_forge_a_special_token(case: str) -> None:
    template, _ = both(case)
    special = template.tokenizer.special_ids
    forged = " x".join(special)
    talk = [
        {"role": "user", "content": f"a{forged}b"},
        {"role": "assistant", "content": f"c{forged}d"},
    ]
    plain = [{**message, "content": "word"} for message in talk]
    rendered, usual = template.render(talk), template.render(plain)

    def specials(ids: list[int]) -> list[int]:
        unknown = special.get("<unk>")
        return [token for token in ids if token in special.values() and token != unknown]

    assert specials(rendered.ids.tolist()) == specials(usual.ids.tolist())
    text = template.tokenizer.decode(rendered.ids, continued=True)
    assert (
        kinds.comparable(CASES[case][0], text).count(kinds.comparable(CASES[case][0], forged)) == 2
    )


def test_identity_depends_on_tokenizer_template_and_names() -> None:
    template, _ = both("chatml")
    same = ChatTemplate.from_stored(template.stored(), template.tokenizer)
    assert same.sha256 == template.sha256
    assert same.render(TALK).ids.tolist() == template.render(TALK).ids.tolist()
    others = [
        ChatTemplate(template.tokenizer, CHATML.replace("helpful", "brief"), template.names),
        ChatTemplate(template.tokenizer, CHATML, {**template.names, "bos_token": "<|endoftext|>"}),
        ChatTemplate(Tokenizer.from_json(kinds.as_json("qwen")), CHATML, template.names),
    ]
    assert len({one.sha256 for one in (template, *others)}) == 4


def test_the_oldest_messages_are_left_out_of_a_long_prompt() -> None:
    template, _ = both("own")
    system = {"role": "system", "content": "Be brief."}
    talk = [system, *TALK, {"role": "user", "content": "Why?"}]
    whole = template.prompt(talk)
    kept, ids = template.fitting(talk, len(whole))
    assert (kept, ids) == (talk, whole)
    kept, ids = template.fitting(talk, len(whole) - 1)
    assert kept == [system, *talk[3:]]
    assert ids == template.prompt(kept)
    kept, _ = template.fitting(talk, len(ids) - 1)
    assert kept == [system, talk[-1]]
    kept, ids = template.fitting(talk, 3, most=len(ids))
    assert kept == [system, talk[-1]]
    with pytest.raises(UserError, match=r"has \d+ tokens, but the model's context has room for 3"):
        template.fitting(talk, 3)


def test_a_long_conversation_is_shortened_to_what_fits_and_no_further() -> None:
    template, _ = both("own")
    talk = [*TALK[:2] * 50, TALK[0]]
    for limit in (30, 200, 1000):
        kept, ids = template.fitting(talk, limit)
        assert len(ids) <= limit
        assert kept == talk[-len(kept) :]
        assert len(template.prompt(talk[-len(kept) - 2 :])) > limit


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for", "its chat template cannot be read"),
        (OWN + "{{ surprise }}", "uses an unknown name: 'surprise' is undefined"),
        (OWN + "{{ today() }}", "uses an unknown name: 'today' is undefined"),
        ("{{ raise_exception('No!') }}", "refuses the conversation: No!"),
        ("{{ messages.clear() }}", "refuses the conversation"),
        ("{{ ''.__class__.__mro__ }}", "refuses the conversation|unknown name"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "does not end an answer"),
        ("{{ messages | length }}" + OWN, "in another way when the answer is there"),
        (OWN + "x" * (1 << 16), "has 65,[0-9]{3} characters"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChatTemplate(train(["a text"], 257), source)


THOUSAND = "range(1000)"
KEEPS = "{% set n = namespace(x=[]) %}{% for a in range(9999) %}{% set n.x = n.x + [MORE] %}{% endfor %}"
"""Many texts, each of which is not too long."""


NESTED = (
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}"
    "{% endfor %}{{ SHOWN }}"
)
"""Little memory, whose text would fill all there is."""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"{{% for a in {THOUSAND} %}}{{% for b in {THOUSAND} %}}{{% endfor %}}{{% endfor %}}", "round"),
        (f"{{% for a in {THOUSAND} %}}{{% for b in {THOUSAND} if 0 %}}{{% endfor %}}{{% endfor %}}", "round"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "round"),
        ("{{ 'x' * 10000000000 }}", "too long"),
        ("{{ 1000 * [1000000] * 1000000 }}", "too long"),
        ("{{ 9 ** 9 ** 9 }}", "raises to a power"),
        ("{% set n = namespace(x='xx') %}{% for a in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}", "too long"),
        ("{% set n = namespace(x='xx') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "too long"),
        ("{% set n = namespace(x=3) %}{% for a in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}", "too large"),
        ("{% set x %}{{ 'x' * 4000000 }}{% endset %}{% for a in range(99) %}{{ x }}{% endfor %}", "too long"),
        ("{% for a in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}", "too long"),
        ("{{ 'x' | center(10000000000) }}", "cannot be read"),
        ("{{ 'x'.ljust(10000000000) }}", "unsafe"),
        ("{{ (5).to_bytes(10000000000) }}", "unsafe"),
        ("{{ 'x'.encode() }}", "unsafe"),
        ("{{ '%9999999999d' % 3 }}", "too long"),
        ("{{ '%.9999999999f' % 3 }}", "too long"),
        ("{{ '%*d' % (9999999999, 3) }}", "too long"),
        (f"{{{{ '{'%s' * 9000}' % ('x' * 4000000) }}}}", "too long"),
        ("{{ '{:9999999999}'.format(3) }}", "too long"),
        ("{{ '{:{w}}'.format(3, w=9999999999) }}", "too long"),
        (f"{{{{ '{'{0}' * 9000}'.format('x' * 4000000) }}}}", "too long"),
        ("{{ ('x' * 4000000).replace('x', 'y' * 4000000) }}", "too long"),
        ("{{ ('x' * 4000000) | replace('x', 'y' * 4000000) }}", "too long"),
        ("{{ ('x' * 4000000).join('y' * 4000000) }}", "too long"),
        ("{{ ['x' * 4000000] * 100000 }}", "too long"),
        ("{{ (['x' * 4000000] * 100000) | join }}", "too long"),
        ("{{ (['x' * 4000000] * 100000) | tojson }}", "too long"),
        ("{{ (['x' * 4000000] * 100000) | upper }}", "too long"),
        ("{{ 'x' | indent(9999999999) }}", "too long"),
        ("{{ [1] | tojson(indent=9999999999) }}", "indents JSON by too much"),
        ("{{ 3.5 | round(9999999999) }}", "more digits than numbers have"),
        ("{% set n = namespace(x=['y']) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}", "too long"),
        (KEEPS.replace("MORE", "('x' * 4000000)[1:]"), "too long together"),
        (KEEPS.replace("MORE", "('x' * 4000000) | upper"), "too long together"),
        (KEEPS.replace("MORE", "'x' * 4000000"), "too long together"),
        ("{{ lipsum(10000) }}", "unknown name"),
        ("{{ cycler(1, 2) }}", "unknown name"),
        (NESTED.replace("SHOWN", "n.x.values()"), "too long|too large"),
        (NESTED.replace("SHOWN", "n"), "too long|too large|namespace"),
        ("{{ '%((a)b)9999999999d' % {'(a)b': 1} }}", "odd name"),
    ],
)  # fmt: skip
def test_a_template_without_end_is_refused(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChatTemplate(train(["a text"], 257), source + OWN)


def test_bounded_operations_give_what_those_of_the_library_give() -> None:
    """Every operation that `jinja_bounds` makes anew, and some that it only counts."""
    values: dict[str, Any] = {"messages": TALK, "a": ["x", 2, None], "d": {"k": "ü", "n": [1]}}
    theirs = ImmutableSandboxedEnvironment()
    theirs.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    for expression in (
        "a | join('-')", "messages | join(', ', attribute='role')", "', '.join(d)", "[1, [2]] | string",
        "'abab' | replace('a', 'xy')", "'abab' | replace('a', '', 1)", "'abab'.replace('b', '')", "a ~ d ~ 1.5",
        "'p\\nq' | indent", "'p\\nq' | indent('>', first=true)", "2.567 | round(1)", "2.5 | round | int",
        "d | tojson", "d | tojson(indent=2)", "'%s %03d %5.1f%%' % ('x', 7, 2.25)", "'%(k)s' % d", "7 % 4",
        "'{0} {a!r:>5} {0:->3}'.format('x', a=1)", "messages[1:] | length",
        "messages | map(attribute='content') | map('upper') | list", "d.items() | list", "(1, 2) + (3,)", "'x'[::-1]",
        "'a,b'.split(',')", "' x '.strip()", "messages | selectattr('role', 'equalto', 'user') | list | length",
    ):  # fmt: skip
        source = "{{ " + expression + " }}"
        assert compiled(source)(values) == theirs.from_string(source).render(values), expression


def test_the_bounds_of_a_template_grow_with_the_conversation() -> None:
    pairs = "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}"
    template = ChatTemplate(train(["a text"], 257), pairs + OWN)
    assert len(template.prompt(TALK * 100)) > 800
    long = "word " * 2_000_000
    text = template._text([{"role": "user", "content": long}], asks=True)
    assert long.strip() in text


def test_many_special_tokens_in_a_message_take_no_longer_than_its_length() -> None:
    template, _ = both("own")
    content = "<|endoftext|>" * 100_000
    assert template._apart(content).count("\ufdd0") == 100_000


def test_a_name_without_a_value_can_be_tested() -> None:
    source = "{% if tools is defined and tools %}{{ tools }}{% endif %}" + OWN
    template = ChatTemplate(train(["a text"], 257), source)
    assert (
        template.render(TALK).ids.tolist()
        == ChatTemplate(template.tokenizer).render(TALK).ids.tolist()
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a list of messages is expected"),
        ("hello", "a list of messages is expected"),
        ([7], r"messages\[0\]: an object"),
        ([{"role": "user"}], r"messages\[0\].content: None is not a text"),
        ([{"content": "x"}], r"messages\[0\].role: None is none of"),
        ([{"role": "user", "content": " "}], r"messages\[0\].content: it is empty"),
        ([*TALK, *TALK[1:]], r"messages\[4\].role: assistant follows assistant, where user"),
    ],
)
def test_messages_that_break_the_rules_are_named(messages: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_messages(messages)


def test_the_last_message_may_have_to_be_of_the_user() -> None:
    with pytest.raises(UserError, match=r"messages\[3\].role: the last message has to be .* user"):
        check_messages(TALK, ends_with="user")


def test_a_saved_tokenizer_of_transformers_has_the_same_template(tmp_path: Path) -> None:
    template, theirs = both("chatml")
    theirs.save_pretrained(tmp_path)
    from homespun.model_formats.tokenizer_files import read_chat_template

    assert read_chat_template(tmp_path, template.tokenizer) == template.stored()
