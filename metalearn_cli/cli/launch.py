"""Running a stage as a Hydra app, and what becomes of its jobs."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from metalearn_cli.cli import ui
from metalearn_cli.cli.choices import config_dir
from metalearn_cli.cli.compose import Composer, settings, values_of
from metalearn_cli.cli.faults import SettingsError, located
from metalearn_cli.core.errors import ConfigError, UserError

DISK = {errno.ENOSPC: "no space left on device", errno.EDQUOT: "disk quota exceeded", errno.EROFS: "read-only file system"}
