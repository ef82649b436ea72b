"""What the log of a training tells."""

import logging
import re
from pathlib import Path


def test_the_log_tells_what_data_cost(go, caplog):
    caplog.set_level(logging.INFO, "metalearn_cli")
    log = (Path(go("pretrain")["folder"]) / "mlx.log").read_text()
    (share,) = re.findall(r"data took ([\d.]+) % of the training's time", log)
    assert 0 < float(share) < 100
