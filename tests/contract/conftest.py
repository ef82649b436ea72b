from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.components import installed


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[None]:
    """Have the package of `tests/pieces` installed as a plug-in."""
    with installed(tmp_path / "site-packages"):
        yield
