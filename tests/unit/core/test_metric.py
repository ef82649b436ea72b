"""What a metric is stands in one place; nothing is read off the letters of a name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metalearn_cli.core.metric import (
    ACCURACY,
    FRECHET_OURS,
    LABEL_ACCURACY,
    LINEAR_ACCURACY,
    MSE,
    NEIGHBOURS_ACCURACY,
    PERPLEXITY,
    Metric,
    metric_named,
)

SHARES = (ACCURACY, LABEL_ACCURACY, NEIGHBOURS_ACCURACY, LINEAR_ACCURACY)


@pytest.mark.parametrize("metric", [*SHARES, MSE, PERPLEXITY, FRECHET_OURS])
@pytest.mark.parametrize("prefix", ["", "val/", "test/"])
def test_known_ones_are_found_by_name(metric, prefix):
    assert metric_named(prefix + metric.name) is metric


@pytest.mark.parametrize("name", ["accuracy_interval", "inaccuracy", "val/loss", "train/mse_like"])
def test_an_unknown_one_is_a_plain_number(name):
    assert metric_named(name) == Metric(name.rpartition("/")[2], "", higher_is_better=False)


def test_which_way_is_better():
    assert (ACCURACY.higher_is_better, LABEL_ACCURACY.higher_is_better, MSE.higher_is_better) == (True, True, False)
    assert (ACCURACY.unit, MSE.unit) == ("share", "")
    for metric in SHARES:
        assert metric[1:] == ACCURACY[1:]
    for metric in (PERPLEXITY, FRECHET_OURS):
        assert metric[1:] == MSE[1:]


@pytest.mark.parametrize("module", ["metric", "stages", "plugins"])
def test_no_torch_is_needed(module):
    code = f"import sys, metalearn_cli.core.{module}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
