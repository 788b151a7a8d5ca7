"""The page shows the inside of a model as the model computes it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.server.studio import inside
from tests.server.studio.asking import ask

BEST, MIXTURE = "checkpoints/best.npz", "mixture/best.npz"
TEXT = "Once upon a time"


def body(model: str = BEST, **more: Any) -> dict[str, Any]:
    return {"model": model, "text": TEXT} | more


def of(work: Path, model: str) -> tuple[homespun.LanguageModel, list[int]]:
    loaded = homespun.load(work / model)
    return loaded, [loaded.tokenizer.eot_id, *loaded.tokenizer.encode(TEXT)]


def test_tokens_have_ids_and_bytes_and_give_the_text(address: str, work: Path) -> None:
    status, seen = ask(address, "/api/inside", body())
    _, ids = of(work, BEST)
    assert status == 200
    assert [token["id"] for token in seen["tokens"]] == ids
    assert seen["tokens"][0]["name"] == "end of text"
    assert b"".join(bytes.fromhex(token["bytes"]) for token in seen["tokens"]).decode() == TEXT
    assert (seen["layers"], seen["heads"], seen["experts"]) == (2, 4, [])


@pytest.mark.parametrize("head", [0, 3, "mean"])
def test_attention_is_that_of_the_model(address: str, work: Path, head: int | str) -> None:
    model, ids = of(work, BEST)
    status, seen = ask(address, "/api/attention", body(layer=1, head=head))
    assert status == 200
    attention = model.inspect(ids).attention[1]
    expected = attention.mean(0) if head == "mean" else attention[int(head)]
    assert [len(row) for row in seen["weights"]] == list(range(1, len(ids) + 1))
    for row, shares in zip(seen["weights"], expected, strict=True):
        assert row == pytest.approx(list(shares[: len(row)]), abs=1e-4)


def test_the_last_layer_of_the_lens_says_what_the_model_says(address: str, work: Path) -> None:
    model, ids = of(work, BEST)
    _, seen = ask(address, "/api/lens", body(position=2))
    assert len(seen["layers"]) == 3
    logits = model(ids)[2].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = seen["layers"][-1]["likeliest"]
    assert [token["id"] for token in best] == list(np.argsort(-shares)[:5])
    assert best[0]["probability"] == pytest.approx(shares.max(), rel=1e-5)
    following = seen["layers"][-1]["following"]
    assert following["probability"] == pytest.approx(shares[ids[3]], rel=1e-5)
    assert following["rank"] == 1 + int((shares > shares[ids[3]]).sum())
    _, last = ask(address, "/api/lens", body(position=len(ids) - 1))
    assert "following" not in last["layers"][-1]


def test_a_mixture_shows_its_experts(address: str, work: Path) -> None:
    model, ids = of(work, MIXTURE)
    _, seen = ask(address, "/api/inside", body(MIXTURE))
    assert [one["layer"] for one in seen["experts"]] == [0, 1]
    for one in seen["experts"]:
        mixed = model.inspect(ids).experts[one["layer"]]
        assert mixed is not None
        assert [[expert for expert, _ in token] for token in one["tokens"]] == mixed.ids.tolist()
        for token in one["tokens"]:
            assert sum(share for _, share in token) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("inside", {"text": "word " * 80}),
        ("inside", {"text": 5}),
        ("inside", {"model": "nothing"}),
        ("attention", {"layer": 2, "head": 0}),
        ("attention", {"layer": -1, "head": 0}),
        ("attention", {"layer": 0, "head": 4}),
        ("attention", {"layer": 0, "head": True}),
        ("attention", {"layer": 0, "head": "all"}),
        ("attention", {"layer": True, "head": 0}),
        ("lens", {"position": 99}),
        ("lens", {"position": -1}),
        ("lens", {"position": 1.5}),
    ],
)
def test_what_is_not_there_is_explained(address: str, path: str, wrong: dict[str, Any]) -> None:
    status, refused = ask(address, f"/api/{path}", body(**wrong))
    assert status == 400
    assert refused["error"]["message"]


def test_a_long_text_and_a_large_model_are_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homespun.errors import UserError
    from homespun.server.limits import Limits
    from homespun.server.studio.models import Models

    with Models(work).lent(BEST) as loaded:
        n = len(loaded.model.tokenizer.encode(TEXT)) + 1  # with the mark at the beginning
        looks = inside.Looks(Limits(inside_tokens=n))
        assert looks.look(loaded, TEXT)
        with pytest.raises(UserError, match=f"at most {n - 1} is shown"):
            inside.Looks(Limits(inside_tokens=n - 1)).look(loaded, TEXT)
        monkeypatch.setattr(loaded.model, "engine", object())
        with pytest.raises(UserError, match="too many for the engine"):
            looks.look(loaded, "")


def test_the_last_looks_are_kept(work: Path) -> None:
    from homespun.server.limits import Limits
    from homespun.server.studio.models import Models

    looks = inside.Looks(Limits())
    with Models(work).lent(BEST) as loaded:
        first = looks.look(loaded, "One")
        assert looks.look(loaded, "One") is first
        looks.look(loaded, "Two"), looks.look(loaded, "Three")
        again = looks.look(loaded, "One")
    assert again is not first
    for field in dataclasses.fields(again.inside):
        if field.name != "experts":
            ours, theirs = getattr(again.inside, field.name), getattr(first.inside, field.name)
            assert np.array_equal(ours, theirs)
