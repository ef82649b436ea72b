"""A data set of Meta-Dataset with 5 classes in each split, 16 images of 8x8 in each class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foreign import encoded, example, put, record

PARTS = {"TRAIN": 5, "VALID": 5, "TEST": 5}
ITEMS = 16


def spec(parts: dict[str, int] = PARTS, items: int = ITEMS) -> dict[str, Any]:
    """Return a specification of a data set without superclasses."""
    classes = range(sum(parts.values()))
    return {
        "name": "aircraft",
        "classes_per_split": parts,
        "images_per_class": {str(k): items for k in classes},
        "class_names": {str(k): f"F-{k}A/B" for k in classes},
        "path": "/path/to/records/aircraft",
        "file_pattern": "{}.tfrecords",
        "__class__": "DatasetSpecification",
    }


def records(folder: Path, specification: dict[str, Any], classes: int = 15, items: int = ITEMS) -> Path:
    """Write a data set: its specification and a file for each class."""
    for k in range(classes):
        examples = (example(image=encoded(k * 1000 + i, kind="JPEG"), label=k) for i in range(items))
        put(folder / f"{k}.tfrecords", b"".join(map(record, examples)))
    put(folder / "dataset_spec.json", json.dumps(specification))
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(records(folder, spec())), "size": 8}
