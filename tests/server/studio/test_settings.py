"""Forms have the descriptions and bounds of the dataclasses, and refuse as they do."""

import dataclasses
from typing import Any

import pytest

from homespun.config import GenerateConfig, SamplingConfig, TrainConfig
from homespun.server.answers import FieldError
from homespun.server.studio.settings import checked_settings, described, values_of

NAMES = [field.name for field in dataclasses.fields(SamplingConfig)]


@pytest.mark.parametrize("kind", [GenerateConfig, TrainConfig])
def test_every_setting_has_a_field(kind: type) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    fields = described(kind, names)
    assert [field["name"] for field in fields] == names
    for field in fields:
        assert field["help"] == kind.__dataclass_fields__[field["name"]].metadata["help"]
        assert field["kind"] in ("switch", "whole", "number", "text", "texts", "choice")
        assert (field["kind"] == "choice") == bool(field["choices"])


def test_the_defaults_of_a_form_are_those_of_the_config() -> None:
    given = {field["name"]: field["value"] for field in described(SamplingConfig, NAMES)}
    assert checked_settings(SamplingConfig, given, NAMES) == SamplingConfig()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": " 0.5 "}, {"temperature": 0.5}),
        ({"top_k": "off"}, {"top_k": None}),
        ({"stop": ["a", r"\n"]}, {"stop": ("a", "\n")}),
        ({"stop": [], "seed": ""}, {}),
    ],
)
def test_texts_become_values(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values_of(SamplingConfig, given, NAMES) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_p": "2"}, "Top p is 2.0: it must be at most 1"),
        ({"temperature": "hot"}, "Temperature is 'hot': a number is expected"),
        ({"temperature": True}, "Temperature is True: a number is expected"),
        ({"max_tokens": "9" * 5000}, "Max tokens is"),
        ({"max_tokens": "6"}, "Max tokens is 6: it must be at most 5"),
        ({"nothing": "1"}, "there is no such setting here"),
        ({"stop": [1]}, "Stop is"),
    ],
)
def test_a_refusal_names_its_field(given: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as refused:
        values_of(SamplingConfig, given, NAMES, {"max_tokens": 5})
    assert refused.value.field == next(iter(given))
    assert str(refused.value).startswith(message)
