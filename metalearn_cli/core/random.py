"""Random numbers as a function of named parts, so that there is no random state to save or lose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """Mix parts such as (seed, "episodes", "train", step) into a seed in [0, 2**63); other parts give other seeds."""
    text = "\x00".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_torch(seed: int) -> None:
    """Seed torch's global generators, as `torch.manual_seed` does; on a machine without an accelerator only the CPU's.

    There, torch keeps a seed for each kind of accelerator with a trace of its caller, which takes a millisecond.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Run a block with torch's global generator seeded from `parts`, and restore the generator's state after it."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(*parts))
        yield
