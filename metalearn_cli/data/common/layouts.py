"""Where the items of a source lie: in folders of classes, or named by a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import ConfigError, Finding, Problem
from metalearn_cli.data.common.files import SPLIT_WORDS, Files, files_in, files_named, suffix
from metalearn_cli.data.common.manifest import Entry, Manifest, split_named, splits_of
from metalearn_cli.data.common.rows import columns_of, is_table, not_used, roles_of, word_of

COLUMN = {"path": None, "label": None, "split": None, "group": None}
"""The columns of a table of files; None for the usual names."""

ALONE = 0.8  # if more of the classes have a single file, the pattern is wrong

NO_CLASS = "is in no class folder; each class needs a folder of its own"
CLASS_AND_GROUP = (
    "holds files and folders of files, as if it were a class and a group of classes: "
    "move the folders out of it, or what is in them into it"
)


def of_folders(files: Files, endings: Sequence[str], named: bool = False) -> Manifest:
    """Return the files of a folder of classes, each a folder; folders above them are groups, those at the top splits.

    Args:
        files: all files.
        endings: of the files that are items.
        named: whether the names of the files may say their classes instead, by `data.pattern`.
    """
    names = sorted(name for name in files.names if suffix(name) in endings)  # the same in a folder and in an archive
    about = {
        "files": len(files.names),
        "skipped": {**files.skipped, "of other kinds": len(files.names) - len(names)},
    }
    if len({PurePosixPath(name).parent for name in names}) == 1:
        told = _of_one_folder(names, named)
        return Manifest([], about, (*files.findings, Finding(True, "data.root", told)))
    places, wrong = folders_of(names)
    entries, findings = [], [*files.findings, *wrong]
    for name, (split, own) in places.items():
        if not own:
            findings.append(Finding(True, name, NO_CLASS))
            continue
        group = own[0] if len(own) > 1 else ""
        entries.append(Entry(name, "/".join(own[bool(group) :]), split, group))
    if not names:
        found = sorted({suffix(name) or "no ending" for name in files.names})[:8]
        told = f"has no files of {', '.join(endings)}" + (f"; it has files of {', '.join(found)}" if found else "")
        findings.append(Finding(True, "data.root", told))
    return Manifest(entries, about, tuple(findings))


Place = tuple[str, tuple[str, ...]]
"""The split of a file, or "", and the folders of its group and its class, from the top."""


def folders_of(names: Sequence[str]) -> tuple[dict[str, Place], list[Finding]]:
    """Return where each file lies, without the folders that hold all others, and what is wrong with the folders.

    No file is returned if the folders at the top do not say clearly whether they are splits.
    """
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    outer = _common(set(parts.values()))
    given, findings = _are_splits([folders[outer:] for folders in parts.values()])
    if findings:
        return {}, findings
    inner = outer + given
    above = {folders[:i] for folders in parts.values() for i in range(inner + 1, len(folders))}
    findings = [Finding(True, "/".join(folders), CLASS_AND_GROUP) for folders in sorted(above & {*parts.values()})]
    places = {
        name: (split_named(folders[outer], name) if given and len(folders) > outer else "", folders[inner:])
        for name, folders in parts.items()
    }
    return places, findings or _same_labels({own for _, own in places.values()})


def _are_splits(parts: Sequence[tuple[str, ...]]) -> tuple[bool, list[Finding]]:
    """Return whether the folders at the top are splits, and those that keep this from being clear.

    A folder that has the name of a split, but no folders in it, is a class: train, beside car and bus.
    """
    splits = {folders[0]: SPLIT_WORDS.get(folders[0].lower(), "") for folders in parts if folders}
    if findings := beside_splits(splits):
        return False, findings
    named = {folders[0] for folders in parts if len(folders) > 1 and splits[folders[0]]}
    others = sorted(top for top, split in splits.items() if not split)
    train = "train" in splits.values()
    if named and (others or (len(splits) > 1 and not train)):
        why = f"{', '.join(others[:3])} beside it is not" if others else "no folder beside it is named train"
        told = f"is named as a split, but {why}: rename the splits to train, val and test, or this folder if it is none"
        return False, [Finding(True, top, told) for top in sorted(named)]
    return train and not others, []


def _same_labels(classes: set[tuple[str, ...]]) -> list[Finding]:
    """Return which labels are in several groups: they are different classes, and a label may be in two splits."""
    groups: dict[str, set[tuple[str, ...]]] = {}
    for own in classes:
        groups.setdefault(own[0] if len(own) > 1 else "", set()).add(own)
    owners: dict[str, list[str]] = {}
    for group, members in sorted(groups.items()):
        outer = _common(members)
        for own in sorted(members - {()}):
            owners.setdefault("/".join(own[min(outer, len(own) - 1) :]), []).append(group or "no group")
    items = tuple(f"{label} in {' and '.join(own)}" for label, own in sorted(owners.items()) if len(own) > 1)
    told = "has folders of the same name in several groups; each is a class of its own, perhaps in another split"
    cure = "if they are one class, put its files into one folder; rename groups that are splits to train and test"
    return [Finding(False, "data.root", f"{told}; {cure}", items)] * bool(items)


def beside_splits(splits: Mapping[str, str]) -> list[Finding]:
    """Return which folders or files are in no split, beside those of train and of another split.

    Args:
        splits: the split that each folder or file names, or "".
    """
    if not {"train"} < set(splits.values()) - {""}:
        return []
    told = "is neither train, val nor test, but lies beside these: move it away, or into one of them"
    return [Finding(True, name or "data.root", told) for name, split in sorted(splits.items()) if not split]


def _of_one_folder(names: Sequence[str], named: bool) -> str:
    """Return what to do about files that all lie in one folder."""
    many = f"has {counted(len(names), 'file')} in one folder, such as {PurePosixPath(names[0]).name}"
    told = f"{many}: a class is a folder; give the folder that has a folder for each class"
    if not named:
        return told
    first = PurePosixPath(names[0])
    marks = re.findall(r"[_-]", first.stem) or ["_"]
    fields = ["{label}", *["{group}"] * (len(marks) > 1), *(f"{{n{i or ''}}}" for i in range(max(1, len(marks) - 1)))]
    pattern = "".join(field + mark for field, mark in zip(fields, [*marks, first.suffix], strict=True))
    return f"{told}, or say how names tell the class, such as \"data.pattern='{pattern}'\""


def of_names(files: Files, endings: Sequence[str], pattern: str) -> Manifest:
    """Return the files whose names say what they are.

    Args:
        files: all files.
        endings: of the files that are items.
        pattern: such as "{label}_{group}_{n}.wav", matched to the end of each path; a field has no "/". The fields
            "label", "split" and "group" are used. A label is as long as possible: "great_tit_1" is "great_tit" and 1.

    Raises:
        ConfigError: if the pattern has no label, or no file fits it.
    """
    fields = re.findall(r"{(\w+)}", pattern)
    if "label" not in fields or len(set(fields)) < len(fields):
        raise ConfigError([Problem("data.pattern", f"needs {{label}}, and each field once, got {pattern!r}")])
    if wrong := [field for field in fields if not field.isidentifier()]:
        told = f"has the field {{{wrong[0]}}}; a field is a word that begins with a letter, such as {{n{wrong[0]}}}"
        raise ConfigError([Problem("data.pattern", told)])
    literals = re.split(r"{\w+}", pattern)
    longest, shortest = (_expression(fields, literals, label) for label in ("[^/]+", "[^/]+?"))
    names = sorted(name for name in files.names if suffix(name) in endings)
    matches = {name: match.groupdict() for name in names if (match := longest.fullmatch(name))}
    if not matches:
        some = ", ".join(names[:3]) or "none"
        raise ConfigError([Problem("data.pattern", f"{pattern!r} fits none of {len(names)} files, such as {some}")])
    findings = list(files.findings)
    others = {name: match["label"] for name in matches if (match := shortest.fullmatch(name))}
    if unsure := [name for name, label in others.items() if label != matches[name]["label"]]:
        name = unsure[0]
        label, mark = matches[name]["label"], literals[fields.index("label") + 1]
        told = f"fits {len(unsure)} files in two ways: {name} has the label {label!r}, not {others[name]!r}"
        parts = "".join(f"{mark}{{part{i}}}" for i in range(1, label.count(mark) - others[name].count(mark) + 1))
        shorter = pattern.replace("{label}", f"{{label}}{parts}")
        findings.append(Finding(False, "data.pattern", f"{told}; the shorter one is: \"data.pattern='{shorter}'\""))
    entries = [
        Entry(name, found["label"], split_named(found.get("split"), name), found.get("group") or "")
        for name, found in matches.items()
    ]
    sizes = Counter(entry.class_name for entry in entries)
    if single := [name for name, size in sizes.items() if size == 1]:
        if len(single) > ALONE * len(sizes):
            told = f"gives {len(single)} of {len(sizes)} classes a single file, such as {single[0]}"
            cure = "give each part of the names that is not the class a field of its own: {label}_{group}_{n}.wav"
            findings.append(Finding(True, "data.pattern", f"{pattern!r} {told}; {cure}"))
    other = {"of other names": len(names) - len(matches), "of other kinds": len(files.names) - len(names)}
    left = tuple(name for name in names if name not in matches)
    told = f"does not fit {len(left)} of {len(names)} names, which are left out"
    findings += [Finding(False, "data.pattern", told, left)] * bool(left)
    about = {"files": len(files.names), "skipped": {**files.skipped, **other}}
    unused = [field for field in fields if field not in COLUMN]
    if unused and "group" not in fields:
        about["fields"] = f"{', '.join(unused)}: not used; one named group, such as a speaker, stays in one split"
    return Manifest(entries, about, tuple(findings))


def _expression(fields: Sequence[str], literals: Sequence[str], label: str) -> re.Pattern[str]:
    """Return a pattern of files' names as an expression; all fields but the label are as short as possible."""
    parts = [re.escape(literals[0])]
    for field, literal in zip(fields, literals[1:], strict=True):
        parts += [f"(?P<{field}>{label if field == 'label' else '[^/]+?'})", re.escape(literal)]
    return re.compile(rf"(?:.*/)?{''.join(parts)}")


def _common(folders: set[tuple[str, ...]]) -> int:
    """Return how many folders hold all others: they are no classes."""
    differing = (i for i, level in enumerate(zip_longest(*folders)) if len(set(level)) > 1)
    return next(differing, len(next(iter(folders), ())))


def of_source(
    source: Path, column: Mapping[str, str | None], of_files: Callable[[Files], Manifest]
) -> tuple[Manifest, Files]:
    """Return what a table names, or what lies in a folder or archive.

    Args:
        source: the table, folder or archive.
        column: the columns of a table, see `of_table`.
        of_files: says what the files of a folder or archive are.

    Raises:
        DataError: as `of_table`.
    """
    if is_table(source.name):
        return of_table(source, column)
    files = files_in(source)
    return of_files(files), files


def of_table(path: Path, column: Mapping[str, str | None]) -> tuple[Manifest, Files]:
    """Return the files that a table names, relative to its folder.

    Args:
        path: of the table.
        column: its columns: "path" and "label", and perhaps "split" and "group"; see `rows.named`.

    Raises:
        ConfigError: if it lacks a column.
        DataError: if it cannot be read.
    """
    columns = columns_of(path)
    roles = roles_of(columns, column, path, ("path", "label"))
    used = {role: found[0] for role, found in roles.items()}
    values = {role: [word_of(value) for value in found[1]] for role, found in roles.items()}
    values["path"] = [name.replace("\\", "/") for name in values["path"]]
    files = files_named(path.parent, [name for name in values["path"] if name])
    entries = []
    splits, odd = splits_of(values.get("split", ()), used.get("split", ""), path, columns.place)
    findings, wrong_split = [*files.findings, *odd], {finding.where for finding in odd}
    known, empty = set(files.names), [""] * len(values["path"])
    each = (values["path"], values["label"], splits or empty, values.get("group", empty))
    for row, (name, label, split, group) in enumerate(zip(*each, strict=True)):
        where = f"{path}, {columns.place(row)}"
        lacks = ["has no label"] * (not label) + ["names no file"] * (not name)
        wrong = [Finding(True, where, what) for what in lacks]
        findings += wrong
        if not wrong and where not in wrong_split and name in known:
            entries.append(Entry(name, label, split, group))
    about = {"rows": len(empty), "columns": used, **not_used(columns, used.values())}
    return Manifest(entries, about, tuple(findings)), files
