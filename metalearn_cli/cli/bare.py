"""The few of Hydra's own settings that a composition needs.

Hydra composes its own settings (logging, output folders, help, launchers) into those of every command. mlx uses none of
them, and they take half of the time of a composition.
"""

from __future__ import annotations

from hydra.conf import JobConf, OverridesConf, RuntimeConf
from hydra.core.config_store import ConfigStore


class BareStore(ConfigStore):
    """A store of configs with only what Hydra fills in itself, and the choices that mlx's files and words name."""

    def __init__(self) -> None:
        super().__init__()
        chosen = [{"launcher": "basic"}, {"sweeper": "basic"}, {"job_logging": "none"}, {"hydra_logging": "none"}]
        filled_in = {"overrides": OverridesConf(), "job": JobConf(), "runtime": RuntimeConf()}
        self.store(group="hydra", name="config", node={"defaults": chosen, **filled_in})
        for group in ("hydra/launcher", "hydra/sweeper"):
            self.store(group=group, name="basic", node={})
