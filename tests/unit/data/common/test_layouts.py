"""Folders of classes: which are splits, groups and classes, and those of which that cannot be said."""

import pytest

from metalearn_cli.data.common.files import files_in
from metalearn_cli.data.common.layouts import of_folders

CLASSES = [f"c{k}" for k in range(3)]


def found(root, *folders):
    """Return what is understood of folders of empty files; "{}" in a folder stands for each of three classes."""
    for folder in folders:
        for place in dict.fromkeys(folder.format(label) for label in CLASSES):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / "1.png").touch()
    return of_folders(files_in(root), (".png",))


@pytest.mark.parametrize(
    ("folders", "where"),
    [
        (("{}", "{}/more"), CLASSES),
        (("all/{}", "all/c1/more"), ["all/c1"]),
        (("train/{}", "train/c1/more", "test/d"), ["train/c1"]),
        (("birds", "birds/{}", "fish/{}"), ["birds"]),
        (("a/{}", "a/c1/more/old"), ["a/c1"]),
    ],
)
def test_a_folder_is_no_class_and_group_at_once(tmp_path, folders, where):
    findings = [finding for finding in found(tmp_path, *folders).findings if finding.blocks]
    assert [finding.where for finding in findings] == where
    assert "holds files and folders of files" in findings[0].what
    assert len({finding.what for finding in findings}) == 1  # told once for all


@pytest.mark.parametrize(
    ("folders", "where", "why"),
    [
        (("train/{}", "holdout/{}"), ["train"], "but holdout beside it is not"),
        (("Train/{}", "a/{}", "b/{}", "c/{}", "d/{}"), ["Train"], "but a, b, c beside it is not"),
        (("val/{}", "test/{}"), ["test", "val"], "but no folder beside it is named train"),
        (("val/{}", "test/{}", "rest/{}"), ["test", "val"], "but rest beside it is not"),
    ],
)
def test_folders_of_which_only_some_are_named_as_splits(tmp_path, folders, where, why):
    manifest = found(tmp_path, *folders)
    assert not manifest.entries
    assert [finding.where for finding in manifest.findings] == where
    assert all(finding.blocks and why in finding.what for finding in manifest.findings)
    assert "rename the splits to train, val and test, or this folder if it is none" in manifest.findings[0].what


@pytest.mark.parametrize("folders", [("train", "car", "bus"), ("vehicles/train", "vehicles/car", "birds/{}")])
def test_a_class_of_trains(tmp_path, folders):
    manifest = found(tmp_path, *folders)
    assert "train" in {entry.label for entry in manifest.entries}
    assert not any(entry.split for entry in manifest.entries) and not manifest.findings


@pytest.mark.parametrize(
    ("folders", "items"),
    [
        (("seg_train/seg_train/{}", "seg_test/seg_test/{}"), [f"{c} in seg_test and seg_train" for c in CLASSES]),
        (("{}", "old/c1"), ["c1 in no group and old"]),
        (("train/a/{}", "test/b/c2"), ["c2 in a and b"]),
        (("a/x1", "a/x2", "b/{}"), []),
        (("train/a/{}", "test/b/d"), []),
    ],
)
def test_labels_that_several_groups_have_are_told(tmp_path, folders, items):
    findings = found(tmp_path, *folders).findings
    assert [list(finding.items) for finding in findings] == [items] * bool(items)
    assert not any(finding.blocks for finding in findings)
    assert all("rename groups that are splits to train and test" in finding.what for finding in findings)
