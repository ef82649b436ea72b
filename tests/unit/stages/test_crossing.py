from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.stages.crossing import check_items


def data(kind: Any, shape: tuple[int, ...], **preprocessing: Any) -> Any:
    facts = Facts(kind, shape, "ids" if kind == "text" else "unit", 5)
    return SimpleNamespace(name="other", facts=facts, preprocessing=preprocessing)


def trained(shape: list[int], spec: dict[str, Any], **preprocessing: Any) -> Any:
    return {"shape": shape}, {"name": "first", "spec": spec, "preprocessing": preprocessing}


@pytest.mark.parametrize(("parent", "other", "spec", "told"), [
    (trained([1, 28, 28], {}), data("image", (1, 32, 32)), {"size": 32}, r"takes \[1, 28, 28\]; type data.size=28$"),
    (trained([1, 28, 28], {}), data("image", (3, 32, 32)), {"size": 32, "channels": None},
     "type data.channels=1 data.size=28$"),
    (trained([1, 28, 28], {}), data("image", (3, 28, 28)), {"size": 28}, r"takes \[1, 28, 28\]$"),
    (trained([16], {"length": 16}), data("text", (32,)), {"length": 32}, "type data.length=16$"),
    (trained([1, 40, 50], {"mels": 40, "seconds": 1.0, "rate": 8000}), data("audio", (1, 64, 50)),
     {"mels": 64, "seconds": 1.0, "rate": 8000}, "type data.mels=40$"),
    (trained([6], {}), data("image", (1, 28, 28)), {"size": 28}, r"takes \[6\]$"),
])  # fmt: skip
def test_another_shape_is_told_with_the_settings_that_make_it_fit(parent, other, spec, told) -> None:
    with pytest.raises(ConfigError, match=told):
        check_items(*parent, other, spec)


def test_ids_of_another_vocabulary_are_refused() -> None:
    other = data("text", (16,), pieces="a b")
    with pytest.raises(ConfigError, match="other has a vocabulary of its own"):
        check_items(*trained([16], {}, pieces="a c"), other, {})
    with pytest.raises(ConfigError, match="other has a vocabulary of its own"):
        check_items(*trained([16], {}, text={"pieces": "a c"}), data("mixed", (16,), text={"pieces": "a"}), {})
    check_items(*trained([16], {}, pieces="a b"), other, {})
