"""A check of a data set before training."""

from __future__ import annotations

from typing import Any

from metalearn_cli.core.build import build
from metalearn_cli.core.config import DataConfig
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.findings import episode_findings
from metalearn_cli.stages.preparing import fitted


def check_data(config: DataConfig) -> dict[str, Any]:
    """Read a data set and check it for everything that could harm a training.

    Returns:
        `findings`, each with `blocks`, `where` and `what`; `may_start`, whether none of them blocks; `cure`, what to do
        about files that cannot be used, or ""; and, if it could be read, `data` with its name, protocol, fingerprint
        and the numbers of classes and items of each split.

    Raises:
        UserError: if the data is missing, or its settings are wrong.
    """
    findings: list[Finding] = []
    told: dict[str, Any] = {"data": None, "cure": ""}
    try:
        data = build(config.data, "data")
    except DataError as error:
        findings += error.findings
        told["cure"] = error.cure
    else:
        sizes = {name: {"classes": len(s.names), "items": int(s.counts.sum())} for name, s in data.splits.items()}
        facts = {"name": data.name, "protocol": data.protocol, "fingerprint": data.fingerprint}
        told["data"] = {**facts, "splits": sizes}
        findings += [*data.findings, *episode_findings(data, *fitted(config, data).episode)]
    findings.sort(key=lambda finding: not finding.blocks)
    may_start = not any(finding.blocks for finding in findings)
    return {**told, "findings": [finding._asdict() for finding in findings], "may_start": may_start}
