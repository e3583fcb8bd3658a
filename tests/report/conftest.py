from pathlib import Path

import pytest

from tests.report.made_up_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run that was trained, measured, searched and exported; a test may change it."""
    return write_run(tmp_path / "digits")
