"""A run with LoRA keeps the model in `base.npz`, saves adapters alone, and goes on from them bit for bit."""

import dataclasses
import errno
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import homespun
from homespun import durable
from homespun.architectures.lora import Lora, adapter_parameters
from homespun.checkpoint.archive import read_archive
from homespun.checkpoint.names import BASE, BEST
from homespun.errors import DiskFullError, UserError
from homespun.model_formats.formats import open_model
from homespun.records.events import Event, Started, TrainResult
from homespun.training.run import bytes_on_disk
from homespun.verify import verify
from tests.conftest import records
from tests.test_resume import assert_equal_runs
from tests.training.small_runs import PACE, stop_at

RANK = 4


def adapt(folder: str = "next", **settings: Any) -> TrainResult:
    new: dict[str, Any] = {
        "init_from": "base", "data_file": "second.txt", "max_steps": 8, "lora_rank": RANK,
        "learning_rate": 0.01, "dropout": 0.1, "seq_len": 16,
    }  # fmt: skip
    return homespun.train(**{**PACE, "checkpoint_dir": folder, **new, **settings})


def val_losses(folder: str) -> list[float]:
    return [record["val_loss"] for record in records(folder) if "val_loss" in record]


def weights(path: str | Path) -> dict[str, np.ndarray]:
    return dict(open_model(Path(path)).tensors())


def test_a_folder_holds_the_base_once_and_adapters_otherwise(place: Path) -> None:
    result = adapt()
    folder = result.checkpoint_dir
    expected, found = weights("base"), weights(folder / BASE)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    config = open_model(folder).config
    spec = [p.name for p in adapter_parameters(config, Lora(RANK, 2.0 * RANK))]
    moments = [f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq") for name in spec]
    for name, arrays in {
        BEST[0]: spec,
        "checkpoint_step_8.npz": spec,
        "checkpoint_step_8.state.npz": ["optimizer/step", *moments],
    }.items():
        assert list(read_archive(folder / name).arrays) == arrays
    stated = read_archive(folder / BEST[0]).header["lora"]
    assert stated == {
        "rank": RANK,
        "alpha": 2 * RANK,
        "targets": ["all"],
        "base_sha256": read_archive(folder / BASE).sha256,
    }
    assert val_losses("next")[-1] < val_losses("next")[0]
    assert all("whole" in line for line in verify(folder))
    # The folder is complete: neither the run nor the model needs the initial model any more.
    shutil.rmtree("base")
    tokens = np.arange(8).reshape(1, -1)
    before = homespun.load(folder / BASE)(tokens)
    assert np.abs(homespun.load(folder)(tokens) - before).max() > 1e-3


def test_the_loss_of_the_run_is_that_of_the_merged_model(place: Path) -> None:
    """Evaluations use the adapters beside the matrices, and a reader merges them first."""
    adapt(max_steps=4)
    header = read_archive(Path("next") / BEST[0]).header
    adapt("again", init_from="next", learning_rate=1e-30, max_steps=1, eval_interval=1)
    assert header["val_loss"] == pytest.approx(val_losses("next")[-1])
    assert val_losses("again")[0] == pytest.approx(header["val_loss"], abs=1e-5)


@pytest.mark.parametrize("engine", ["torch", "mlx"])
@pytest.mark.parametrize("stop", [1, 6])
def test_it_resumes_bit_for_bit_without_the_initial_model(
    place: Path, stop: int, engine: str
) -> None:
    adapt("whole", engine=engine)
    adapt("parts", engine=engine, on_event=stop_at(stop))
    shutil.rmtree("base")
    homespun.train(resume="latest", checkpoint_dir="parts", engine=engine)
    assert_equal_runs(Path("whole"), Path("parts"), step=8)


def test_it_goes_on_with_the_other_engine(place: Path) -> None:
    adapt("whole", engine="torch")
    adapt("moved", engine="torch", on_event=stop_at(3))
    homespun.train(resume="latest", checkpoint_dir="moved", engine="mlx", on_event=stop_at(6))
    homespun.train(resume="latest", checkpoint_dir="moved", engine="torch")
    np.testing.assert_allclose(val_losses("moved"), val_losses("whole"), rtol=1e-3)


def test_it_goes_back_to_a_step_and_to_the_best_weights(place: Path) -> None:
    adapt(keep=5)
    expected = val_losses("next")
    homespun.train(resume=4, checkpoint_dir="next")
    assert val_losses("next") == expected
    later = Path("next/later.1")
    assert all("whole" in line for line in verify(later))
    assert weights(later).keys() == weights("base").keys()
    best = read_archive(Path("next") / BEST[0]).step
    homespun.train(resume=f"next/{BEST[0]}", max_steps=best + 1)
    assert all("whole" in line for line in verify(Path("next")))


def test_a_run_that_goes_on_elsewhere_takes_the_base_along(place: Path) -> None:
    adapt(on_event=stop_at(4))
    adapt("whole")
    homespun.train(resume="next/checkpoint_step_4.npz", checkpoint_dir="there")
    shutil.rmtree("next")
    assert (Path("there") / BASE).read_bytes() == (Path("whole") / BASE).read_bytes()
    for name, values in weights("whole/checkpoint_step_8.npz").items():
        np.testing.assert_array_equal(weights("there/checkpoint_step_8.npz")[name], values)


def test_a_model_in_the_folder_of_the_run_itself_is_found_after_the_move(place: Path) -> None:
    expected = weights("base")
    adapt("base")
    assert Path("base.1/best.npz").exists()
    for name, values in weights(f"base/{BASE}").items():
        np.testing.assert_array_equal(values, expected[name])
    adapted = weights("base")
    adapt("base")  # the adapted model is the base of the next one
    for name, values in weights(f"base/{BASE}").items():
        np.testing.assert_array_equal(values, adapted[name])
    assert {path.name for path in Path("base.2").iterdir()} >= {BASE, BEST[0]}
    assert weights("base.2").keys() == expected.keys()


def test_an_earlier_run_that_stays_in_its_folder_keeps_its_base(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a mount point, which cannot be renamed."""
    adapt()
    expected = weights("next")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "next":
            raise PermissionError(1, "not permitted", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    adapt()
    found = weights("next/earlier.1")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert all("whole" in line for line in verify(Path("next/earlier.1")))
    assert all("whole" in line for line in verify(Path("next")))


def test_a_base_that_is_damaged_or_missing_ends_a_resumed_run(place: Path) -> None:
    adapt(on_event=stop_at(4))
    base = Path("next") / BASE
    content = base.read_bytes()
    base.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    before = {path.name: path.read_bytes() for path in Path("next").glob("*.npz")}
    with pytest.raises(UserError, match=f"{BASE} is damaged"):
        homespun.train(resume="latest", checkpoint_dir="next")
    base.unlink()
    with pytest.raises(UserError, match=f"{BASE} is missing"):
        homespun.train(resume="latest", checkpoint_dir="next")
    base.write_bytes(content)
    after = {path.name for path in Path("next").glob("*.npz")}
    assert after == before.keys()
    homespun.train(resume="latest", checkpoint_dir="next")


def test_a_base_that_does_not_fit_on_the_disk_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = durable.sync

    def full(file: BinaryIO) -> None:
        if Path(file.name).name.startswith(BASE):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(DiskFullError, match=BASE):
        adapt()
    assert not Path("next").exists()


def test_a_killed_run_leaves_no_half_of_a_base(place: Path) -> None:
    """The next run removes the file that was being written, and writes a base without checkpoints anew."""
    Path("next").mkdir()
    Path(f"next/{BASE}.0123abcd.tmp").write_bytes(b"half")
    adapt(max_steps=1)
    assert not list(Path().glob("next*/*.tmp"))
    for file in Path("next").iterdir():
        if file.name != BASE:
            file.unlink()
    Path("next", BASE).write_bytes(b"half")
    adapt(max_steps=1)
    assert not Path("next.1").exists()
    homespun.load("next")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": None}, "name it with --init-from"),
        ({"lora_rank": None, "lora_alpha": 3.0}, "--lora-alpha is for adapters"),
        ({"lora_rank": None, "lora_targets": "all"}, "--lora-targets is for adapters"),
        ({"optimizer": "muon"}, "leave --optimizer muon out"),
        ({"lora_targets": "q_prj"}, "did you mean q_proj"),
        ({"lora_rank": 500}, "--lora-rank 500 is more than"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, Any], message: str, place: Path
) -> None:
    with pytest.raises(UserError, match=message):
        adapt(**settings)
    assert not Path("next").exists()


def test_a_resumed_run_keeps_its_adapters(place: Path) -> None:
    adapt(on_event=stop_at(4))
    for settings in ({"lora_rank": 2}, {"lora_alpha": 1.0}, {"lora_targets": "attention"}):
        with pytest.raises(UserError, match="a resumed run cannot change --lora"):
            homespun.train(resume="latest", checkpoint_dir="next", **settings)


def test_a_merged_copy_is_no_checkpoint_of_the_run(place: Path) -> None:
    adapt()
    homespun.load("next").save_weights("next/copy.npz")
    with pytest.raises(UserError, match="go on from it with --init-from"):
        homespun.train(resume="next/copy.npz", max_steps=20)


def test_the_run_says_what_it_trains(place: Path) -> None:
    seen: list[Event] = []
    adapt(lora_targets="q_proj, v_proj", max_steps=1, on_event=seen.append)
    [facts] = [event.facts for event in seen if isinstance(event, Started)]
    assert "LoRA of rank 4, alpha 8, on q_proj, v_proj: 512 parameters" in facts["adapters"]


def test_the_room_on_the_disk_is_that_of_base_and_adapters(place: Path) -> None:
    config = open_model(Path("base")).config
    lora = Lora(RANK, 8.0)
    adapt(keep=2, save_interval=1, max_steps=6)
    taken = sum(path.stat().st_size for path in Path("next").glob("*.npz"))
    arrays = sum(
        info.nbytes
        for path in Path("next").glob("*.npz")
        for info in read_archive(path).arrays.values()
    )
    room = bytes_on_disk(config, 2, lora, with_base=True)
    assert arrays <= room < bytes_on_disk(config, 2)
    assert taken > arrays
    wide = dataclasses.replace(config, vocab_size=100_000)
    assert bytes_on_disk(wide, 3, lora, with_base=True) < 1.1 * bytes_on_disk(wide, 3) / 14
