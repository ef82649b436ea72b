"""Read many images from class folders and from tar shards: seconds for the first read, and episodes a second after it.

The images are JPEGs with bytes after their end, so that the files are as large as photographs and may be larger in all
than this machine's memory. The cache folder is new for each source:

    python scripts/bench_reading.py --images 12000 --megabytes 2.1
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SHARDS = 120, 12


def files(images: int, megabytes: float) -> Iterator[tuple[str, bytes]]:
    """Yield the name and contents of each image."""
    random = np.random.default_rng(0)
    for i in range(images):
        pixels = random.integers(0, 256, (24, 32, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((640, 480)).save(buffer, "JPEG")
        content = buffer.getvalue()
        yield f"class{i % CLASSES:03d}/{i:05d}.jpg", content + os.urandom(max(0, int(megabytes * 1e6) - len(content)))


def class_folders(folder: Path, images: int, megabytes: float) -> Path:
    """Write a folder for each class."""
    for name, content in files(images, megabytes):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def shards(folder: Path, images: int, megabytes: float) -> Path:
    """Write tar files."""
    folder.mkdir()
    archives = [tarfile.open(folder / f"shard-{k:03d}.tar", "w") for k in range(SHARDS)]
    for i, (name, content) in enumerate(files(images, megabytes)):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archives[i * SHARDS // images].addfile(member, io.BytesIO(content))
    for archive in archives:
        archive.close()
    return folder


def measured(root: Path, size: int) -> list[str]:
    """Return the seconds of the first and of the second load, and episodes a second."""
    from metalearn_cli.data.images import images

    seconds = []
    for _ in range(2):
        began = time.monotonic()
        data = images(str(root), size=size)
        seconds.append(time.monotonic() - began)
    sampler = data.episodes("train", way=5, shot=1, query=15, seed=0)
    began, steps = time.monotonic(), 500
    for step in range(steps):
        sampler.batch(step, 1)
    return [f"{seconds[0]:.1f}", f"{seconds[1]:.1f}", f"{steps / (time.monotonic() - began):.0f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000, help="how many, at least 2,400")
    parser.add_argument("--megabytes", type=float, default=0.1, help="size of a file")
    parser.add_argument("--size", type=int, default=84, help="pixels per side of an item")
    parser.add_argument("--folder", default=None, help="where the files are written; they are removed at the end")
    given = parser.parse_args()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    total = given.images * given.megabytes / 1000
    print(f"{given.images} images of {given.megabytes} MB, {total:.1f} GB in all; {memory:.1f} GB of memory\n")
    print("| source | first read, s | again, s | episodes a second |\n|---|---|---|---|")
    for name, write in (("class folders", class_folders), (f"{SHARDS} tar shards", shards)):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            os.environ["MLX_CACHE_DIR"] = str(Path(folder, "cache"))
            root = write(Path(folder, "data"), given.images, given.megabytes)
            print(f"| {name} | {' | '.join(measured(root, given.size))} |", flush=True)
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
