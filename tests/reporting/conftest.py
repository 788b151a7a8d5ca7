"""The option that writes the pictures of the guide."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-pictures",
        action="store_true",
        help="write docs/report-light.png and docs/report-dark.png, from a run of some minutes",
    )
