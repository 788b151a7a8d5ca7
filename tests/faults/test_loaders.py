"""Loaders accept a file or refuse it in one line, in bounded memory and time, and never run code from it.

The tests flip, cut, splice and edit valid files: dozens of times each in `make test`, thousands in `make faults`.
"""

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.architectures.families import initial_weights
from homespun.checkpoint.archive import write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import ImportConfig, ReaderName
from homespun.engine import select
from homespun.errors import UserError
from homespun.importing import import_model
from homespun.language_model import load
from tests.faults.foreign_files import (
    BESIDE,
    FILES,
    MODEL,
    TITLE,
    TOKENIZER,
    placed,
    refused_or_taken,
)
from tests.faults.runs import NOTHING
from tests.faults.table import Table

__all__ = ["TITLE"]

FUZZED = "a file of each kind that is read, mutated"
IMPORTS = "an import of a model whose files are cut"
PICKLED = "a pickle in the place of a file of each kind, and inside a .npz"

# Mutations

INSERTED = (
    b"\0", b"\xff", b"[" * 1500, b'{"a":' * 1500, b"9" * 5000, b"-1", b"1e999", b"null", b'"', b"\\ud800", b"\n",
    b"18446744073709551615", b"\xff" * 8, b"\xef\xbb\xbf", b"\x80\x04", b"'" * 3, b"a." * 300,
)  # fmt: skip
place = st.floats(0, 1)
mutation = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("cut"), place, st.integers(1, 64)),
    st.tuples(st.just("end"), place, st.just(0)),
    st.tuples(st.just("insert"), place, st.sampled_from(INSERTED)),
    st.tuples(st.just("overwrite"), place, st.sampled_from(INSERTED)),
    st.tuples(st.just("splice"), place, place),
)


def mutated(content: bytes, mutations: list[tuple[str, float, Any]]) -> bytes:
    for kind, where, how in mutations:
        at = int(where * max(0, len(content) - 1))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ 1 << how]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[at + how :]
        elif kind == "end":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + how + content[at:]
        elif kind == "overwrite":
            content = content[:at] + how + content[at + len(how) :]
        elif kind == "splice":
            other = int(how * len(content))
            content = content[:at] + content[other : other + 200] + content[at:]
    return content


@pytest.mark.parametrize("examples", [40, pytest.param(2000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_taken_or_refused(
    name: str, examples: int, tmp_path: Path, table: Table
) -> None:
    content, loader = FILES[name]
    path = placed(name, tmp_path)
    assert refused_or_taken(loader, path)

    def read_with(mutations: list[tuple[str, float, Any]]) -> None:
        path.unlink()  # an earlier reader may have it open
        path.write_bytes(mutated(content, mutations))
        refused_or_taken(loader, path)

    for inserted in INSERTED:
        for where in (0, 0.5):
            read_with([("insert", where, inserted)])

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.lists(mutation, min_size=1, max_size=4))
    def read_it(mutations: list[tuple[str, float, Any]]) -> None:
        read_with(mutations)

    read_it()
    table.row(
        FUZZED,
        tries=examples * len(FILES),
        lost=NOTHING,
        result="taken, or refused in a line; memory and time bounded",
    )


def test_an_import_that_is_refused_writes_nothing(tmp_path: Path, table: Table) -> None:
    """Each file of a model is cut, in turn, and the folder of an earlier run is there."""
    output, tries = tmp_path / "run", 0
    output.mkdir()
    (output / "kept.txt").write_text("kept")
    for name in {*BESIDE, "model.gguf"} - {"mlx/tokenizer_config.json"}:  # which is not needed
        content = FILES[name][0]
        for end in range(0, len(content) - 1, len(content) // 20):
            path = placed(name, tmp_path)
            path.write_bytes(content[:end])
            source = path if name == "model.gguf" else path.parent
            with pytest.raises(UserError) as refused:
                import_model(ImportConfig(source=str(source), output=str(output)), print)
            assert "\n" not in str(refused.value)
            assert [entry.name for entry in output.iterdir()] == ["kept.txt"]
            assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("run.")]
            tries += 1
    table.row(IMPORTS, tries=tries, lost=NOTHING, result="refused in a line; nothing written")


# Models that are small on the disk only

CLAIMS: dict[str, dict[str, Any]] = {
    "a long context of wide heads": {"head_dim": 1000, "seq_len": 1 << 17},
    "a smaller vocabulary than its tokenizer": {"vocab_size": 100},
}


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_stays_small(claim: str, engine: ReaderName, tmp_path: Path) -> None:
    config = dataclasses.replace(MODEL, **CLAIMS[claim])
    path = tmp_path / "model.npz"
    header = {"model": vars(config), "tokenizer": TOKENIZER.to_json()}
    write_archive(path, initial_weights(config, 0), header)

    def generate(path: Path) -> None:
        model = load(path, engine=engine, precision="float32")
        model.generate("once upon", max_tokens=3, seed=1)
        rope = getattr(getattr(model.engine, "decoding_model", None), "rope", None)
        assert rope is None or rope.shape[1] <= 32

    if engine == "torch":
        select.machine("torch")  # loads the library, which is not part of reading a file
    assert refused_or_taken(generate, path) is ("tokenizer" not in claim)


def test_layers_that_are_not_in_the_file_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    config = dataclasses.replace(MODEL, n_layers=10_000)
    header = {"model": vars(config), "tokenizer": TOKENIZER.to_json()}
    write_archive(path, initial_weights(MODEL, 0), header)
    assert not refused_or_taken(lambda path: load(path, engine="numpy"), path)


# No code runs


class Payload:
    """Unpickling this object creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return Path.touch, (self.sentinel,)


def _npz(member: str, payload: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, payload)
        archive.writestr("manifest.json", "{}")
    return file.getvalue()


def test_no_loader_runs_a_payload(tmp_path: Path, table: Table) -> None:
    sentinel = tmp_path / "it ran"
    payload = pickle.dumps(Payload(sentinel))
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(sentinel)], dtype=object), allow_pickle=True)
    contents = [
        payload,
        objects.getvalue(),
        _npz("a.npy", objects.getvalue()),
        _npz("a.pkl", payload),
    ]
    tries = 0
    for name, (valid, loader) in FILES.items():
        for content in [*contents, *(part for c in contents for part in (valid + c, c + valid))]:
            path = placed(name, tmp_path)
            path.unlink()
            path.write_bytes(content)
            refused_or_taken(loader, path)
            tries += 1
    for content in contents:
        for name in ("checkpoint_step_1.npz", "checkpoint_step_1.state.npz", "best.npz"):
            (tmp_path / name).write_bytes(content)
        assert CheckpointFolder(tmp_path).latest(lambda line: None) is None
        tries += 1
    assert not sentinel.exists()
    pickle.loads(payload)  # noqa: S301 - shows that the payload works
    assert sentinel.exists()
    table.row(
        PICKLED, tries=tries, lost=NOTHING, result="refused, or read as what it is not; nothing ran"
    )
