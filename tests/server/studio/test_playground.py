"""The answers of the playground: the tokens of the ordinary samples with their alternatives, and growth over a run."""

import http.client
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from starlette.applications import Starlette

import homespun
from homespun.language_model import LanguageModel
from homespun.server.answers import HANDLERS
from homespun.server.limits import Limits
from homespun.server.studio import playground
from homespun.server.studio.models import Models
from homespun.server.studio.playground import grown
from homespun.server.studio.state import State
from tests.browsing import PATIENCE
from tests.server.studio.asking import KEY, ask, told
from tests.server.studio.conftest import serving
from tests.server.studio.made import EVIL, STEPS
from tests.server.test_limits import until

BEST = "checkpoints/best.npz"


def question(prompt: str = "Once upon a time", **more: Any) -> dict[str, Any]:
    settings = {"max_tokens": "12", "seed": "5", "min_p": "0"}
    return {"model": BEST, "prompt": prompt, "settings": settings | more.pop("settings", {})} | more


def test_the_page_learns_models_and_settings(address: str) -> None:
    status, studio = ask(address, "/api/studio")
    assert status == 200
    labels = [model["label"] for model in studio["models"]]
    steps = [f"checkpoints: step {step}" for step in reversed(STEPS)]
    others = [f"{run}: best" for run in ("answers", "evil", "evil-answers", "mixture")]
    assert labels == ["checkpoints: best", *steps, *others]
    fields = {field["name"]: field for field in studio["settings"]}
    assert fields["temperature"]["value"] == "0.9"
    assert fields["temperature"]["help"].startswith("0: always")
    assert fields["top_p"]["bounds"] == "Above 0, at most 1"
    assert fields["num_samples"]["bounds"] == "At least 1, at most 16"
    assert fields["seed"]["omitted"] == "random"


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_written_is_what_the_model_writes(address: str, work: Path, count: int) -> None:
    first, *tokens, last = told(
        address, "/api/write", question(settings={"num_samples": str(count)})
    )
    model = homespun.load(work / BEST)
    expected = model.continuations(
        "Once upon a time", num_samples=count, max_tokens=12, seed=5, min_p=0.0
    )
    for number, sample in enumerate(expected):
        assert "".join(one["text"] for one in tokens if one["sample"] == number) == sample.text
    assert first["seed"] == 5
    assert [one["id"] for one in first["prompt"][1:]] == model.tokenizer.encode("Once upon a time")
    assert first["prompt"][0]["name"] == "end of text"
    assert last["tokens"] == len(tokens)
    for one in tokens:
        shares = [share for _, _, share in one["likeliest"]]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 8
        assert one["probability"] <= shares[0]


def test_a_seed_that_was_drawn_is_told_and_repeats_the_text(address: str) -> None:
    """The last event of a text has no token if the model ends it."""
    first, *pieces, _ = told(address, "/api/write", question(settings={"seed": ""}))
    again = told(address, "/api/write", question(settings={"seed": str(first["seed"])}))
    assert [one.get("token") for one in again[1:-1]] == [one.get("token") for one in pieces]


def test_going_on_from_an_alternative_reads_its_tokens_as_they_are(
    address: str, work: Path
) -> None:
    first, *tokens, _ = told(address, "/api/write", question())
    other = tokens[3]["likeliest"][1][0]
    ids = [one["id"] for one in first["prompt"]] + [one["token"] for one in tokens[:3]] + [other]
    _, *branch, _ = told(address, "/api/write", question(ids=ids, settings={"temperature": "0"}))
    logits = homespun.load(work / BEST)(np.array(ids))[-1]
    assert branch[0]["token"] == int(logits.argmax())


def test_a_text_past_the_context_goes_on(address: str) -> None:
    _, *tokens, _ = told(address, "/api/write", question(ids=[0, *range(1, 90)]))
    assert len(tokens) == 12


def test_text_of_a_model_comes_as_it_is(address: str) -> None:
    body = question("", model="evil/best.npz", settings={"max_tokens": "100"})
    _, *tokens, _ = told(address, "/api/write", body)
    assert "".join(one["text"] for one in tokens) == EVIL


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"settings": {"temperature": "nan"}}, "temperature"),
        ({"settings": {"temperature": "-1"}}, "temperature"),
        ({"settings": {"temperature": "warm"}}, "temperature"),
        ({"settings": {"top_p": "1.5"}}, "top_p"),
        ({"settings": {"max_tokens": "1000000000"}}, "max_tokens"),
        ({"settings": {"num_samples": "17"}}, "num_samples"),
        ({"settings": {"num_samples": True}}, "num_samples"),
        ({"settings": {"prompt": "x"}}, "prompt"),
        ({"settings": {"stop": ["x"] * 5}}, "stop"),
        ({"settings": {"stop": ["x" * 257]}}, "stop"),
        ({"prompt": "word " * 100}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"settings": {"\ud800": "1"}}, "settings"),
        ({"settings": {"stop": ["\ud800"]}}, "stop"),
        ({"prompt": 3}, "prompt"),
        ({"ids": [400]}, "prompt"),
        ({"ids": [-1]}, "prompt"),
        ({"ids": ["a"]}, "prompt"),
        ({"ids": [True]}, "prompt"),
        ({"ids": "a"}, "prompt"),
        ({"unknown": 1}, "unknown"),
        ({"model": "../secret/best.npz"}, "model"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "checkpoints/none.npz"}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_bad_input_is_refused_with_its_field_and_the_next_request_answered(
    address: str, wrong: dict[str, Any], field: str | None
) -> None:
    status, refused = ask(address, "/api/write", question(**wrong))
    assert status == 400
    assert refused["error"]["param"] == field
    assert "\n" not in refused["error"]["message"]
    assert ask(address, "/api/studio")[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 10_000, b'"text"', b"\xff"])
def test_what_is_no_json_object_is_refused(address: str, body: bytes) -> None:
    status, refused = ask(address, "/api/write", body)
    assert status == 400
    assert re.search("JSON|an object with fields", refused["error"]["message"])


def test_growth_is_the_probability_at_each_checkpoint(address: str, work: Path) -> None:
    body = {"model": BEST, "prompt": "Once", "next": " upon", "ids": None, "token": None}
    first, *points = told(address, "/api/growth", body)
    assert [point["step"] for point in points] == [*STEPS, STEPS[1]]
    assert [point["kind"] for point in points] == ["step", "step", "step", "best"]
    for point in points:
        model = homespun.load(work / point["path"])
        ids = [model.tokenizer.eot_id, *model.tokenizer.encode("Once")]
        logits = model(ids)[-1].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        token = first["token"]["id"]
        assert point["probability"] == pytest.approx(shares[token], rel=1e-6)
        assert point["rank"] == 1 + int((shares > shares[token]).sum())
        assert point["likeliest"]["id"] == int(shares.argmax())


@pytest.mark.parametrize(("most", "n_read"), [(4, 4), (2, 2)])
def test_growth_reads_so_many_checkpoints(work: Path, most: int, n_read: int) -> None:
    models = Models(work, Limits(checkpoints=most))
    _, *points = grown(models, BEST, "Once", " upon", None)
    assert len(points) == n_read
    assert [points[0]["step"], points[-1]["path"]] == [STEPS[0], BEST]


@pytest.mark.parametrize("wrong", [{"next": ""}, {"token": 400}, {"token": "x"}])
def test_growth_of_no_token_is_explained(address: str, wrong: dict[str, Any]) -> None:
    body = {"model": BEST, "prompt": "Once", "next": " upon", "token": None} | wrong
    [answer] = told(address, "/api/growth", body)
    assert answer["error"]["message"]


def test_a_model_is_not_closed_between_its_loading_and_its_first_token(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others load as many models as stay in memory meanwhile."""
    tokens_of = playground.tokens_of

    def slow(model: LanguageModel, prompt: str | list[int]) -> list[int]:
        for step in STEPS:
            path = f"checkpoints/checkpoint_step_{step}.npz"
            assert ask(address, "/api/inside", {"model": path, "text": "a"})[0] == 200
        return tokens_of(model, prompt)

    monkeypatch.setattr(playground, "tokens_of", slow)
    _, *tokens, last = told(address, "/api/write", question())
    assert last["tokens"] == len(tokens)


def test_a_reader_who_leaves_ends_the_writing_and_gives_the_model_back(work: Path) -> None:
    state = State(work)
    app = Starlette(routes=playground.routes(state), exception_handlers=HANDLERS)
    with serving(app) as place, state.models.lent(BEST) as loaded:
        body = json.dumps(question(settings={"max_tokens": "4000", "num_samples": "16"}))
        for _ in range(2):  # the second one leaves while it waits
            connection = http.client.HTTPConnection(urlsplit(place).netloc, timeout=PATIENCE)
            connection.request("POST", "/api/write", body.encode(), KEY)
            connection.getresponse().close()
            connection.close()
        assert until(lambda: not (loaded.batcher.n_running or loaded.batcher.n_waiting))
        assert until(lambda: loaded._n_borrowers == 1)
        assert loaded.batcher.tokens_written < 16 * 4000
