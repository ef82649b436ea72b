from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.components import installed

from metalearn_cli.records import names


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[None]:
    """Have the package of `tests/pieces` installed as a plug-in."""
    names.choices.cache_clear()
    with installed(tmp_path / "site-packages"):
        yield
    names.choices.cache_clear()
