"""What columns of a table are worth: those that tell classes apart, and not one of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import GRAY, meta_trained

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.types import Episode
from metalearn_cli.deploy import importance
from metalearn_cli.deploy.trained import Trained, of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, random = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    means = random.normal(size=(30, 2)) * 9
    rows = [
        f"kind{k:02d},{means[k, 0] + random.normal()},{means[k, 1] + random.normal()},{random.choice(['red', 'blue'])}"
        for k in range(30)
        for _ in range(12)
    ]
    (folder / "kinds.csv").write_text("\n".join(["label,length,width,colour", *rows]))
    own = {"root": str(folder / "kinds.csv")}
    return of_checkpoint(open_checkpoint(meta_trained("table", folder, own, way=3, shot=2)))


@pytest.mark.medium
def test_columns_that_tell_classes_apart_are_worth_more_than_noise(trained):
    found = importance.importance(trained, 40)
    assert (found["way"], found["shot"], found["episodes"]) == (3, 2, 40) and found["accuracy"] > 0.5
    falls = {one["column"]: one for one in found["columns"]}
    assert falls.keys() == {"length", "width", "colour"}
    assert abs(falls["colour"]["fall"]) < 0.03  # colours are drawn at random
    assert all(falls[name]["fall"] > max(0.05, falls[name]["interval"]) for name in ("length", "width"))
    assert [one["fall"] for one in found["columns"]] == sorted((one["fall"] for one in found["columns"]), reverse=True)
    assert -1 <= found["sanity"] <= 1
    assert importance.importance(trained, 40) == found


def test_the_same_network_has_a_correlation_of_one(trained, monkeypatch):
    monkeypatch.setattr(importance, "_shuffled", lambda trained, seed: trained)
    assert importance.importance(trained, 3)["sanity"] == pytest.approx(1)


def test_a_column_is_permuted_among_all_items_and_no_other_one():
    x = torch.arange(24.0).view(6, 4)
    one = Episode(x[:2], torch.arange(2), x[2:], torch.arange(4) % 2)
    other = importance._permuted(one, slice(1, 3), 5)
    both = torch.cat([other.support_x, other.query_x])
    assert torch.equal(both[:, [0, 3]], x[:, [0, 3]]) and torch.equal(one.support_x, x[:2])
    assert torch.equal(both[:, 1:3].sort(0)[0], x[:, 1:3]) and not torch.equal(both, x)
    assert torch.equal(both[:, 2] - both[:, 1], torch.ones(6))  # the numbers of a column stay together


@pytest.mark.medium
def test_only_tables_have_columns(tmp_path: Path):
    pictures = of_checkpoint(open_checkpoint(meta_trained("images", tmp_path, GRAY)))
    with pytest.raises(UserError, match="method=permutation is for tables"):
        importance.importance(pictures, 2)
