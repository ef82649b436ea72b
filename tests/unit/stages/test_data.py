"""What is shown of a data set."""

import pytest
import torch
from sources import audio

from metalearn_cli.data.audio import audio as recordings
from metalearn_cli.stages.preparing import as_seen


@pytest.mark.medium
def test_low_frequencies_of_sound_are_at_the_bottom(tmp_path):
    data = recordings(**audio.write(tmp_path))
    x, _ = data.batch("train", "all", 2, 0, 0)
    seen = as_seen(x, data)
    assert torch.equal(seen[:, 0, -1], x[:, 0, 0])
    assert torch.equal(seen[:, 0, 0], x[:, 0, -1])
