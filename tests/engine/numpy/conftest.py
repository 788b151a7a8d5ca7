"""The compiled functions of the NumPy engine, for this processor and for lesser ones."""

import platform
from pathlib import Path

import pytest

from homespun.engine.numpy import compiling, products
from homespun.engine.numpy.products import Products, compiled

WITHOUT = {
    "this processor": (),
    "no narrow products": ("-mno-avx512bf16", "-mno-avx512vnni"),
    "no AVX-512": ("-mno-avx512f",),
    "no AVX2": ("-mno-avx2",),
}


@pytest.fixture(scope="session")
def own() -> Products:
    found = compiled()
    assert found, "the tests need a C compiler"
    return found


@pytest.fixture(scope="session", params=WITHOUT.values(), ids=WITHOUT.keys())
def any_own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Products:
    """The functions as they are compiled for a processor that lacks something."""
    if request.param and platform.machine() != "x86_64":
        pytest.skip("these flags are of other processors")
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(compiling, "FLAGS", (*compiling.FLAGS, *request.param))
        found = compiling.library(products.SOURCES, products._working)
    assert found
    assert len(list(Path(folder).rglob("*.so"))) == 1
    return found
