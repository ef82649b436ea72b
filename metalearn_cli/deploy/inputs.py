"""New files as items, in the way of the data that a learner was trained on.

The readers are those of `data.common`; the preprocessing that a checkpoint records says how they read.

Legend: N items, ... the shape of one item.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import LISTED, ConfigError, DataError, Finding, UserError, gathered, raise_all
from metalearn_cli.core.items import Facts
from metalearn_cli.core.places import expanded
from metalearn_cli.data.common import pixels, waves
from metalearn_cli.data.common.files import ARCHIVES, Files, files_in, files_named, is_archive, suffix, there
from metalearn_cli.data.common.layouts import COLUMN, of_folders, of_source
from metalearn_cli.data.common.rows import (
    MOST_TEXT,
    TABLES,
    Columns,
    Table,
    columns_of,
    decoded,
    is_table,
    named,
    word_of,
)
from metalearn_cli.data.common.tables import vectors
from metalearn_cli.data.common.texts import Passage, encoded
from metalearn_cli.data.text import COLUMN as COLUMN_OF_TEXTS
from metalearn_cli.data.text import passages
from metalearn_cli.deploy import decoding, looks
from metalearn_cli.deploy.decoding import floats, kind_of

_Read = tuple[Tensor, Tensor | None]  # items and their looks
ENDINGS = {"image": tuple(pixels.FORMATS), "audio": waves.FORMATS}
"""The ends of the names of files that are one item each, by the kind of item."""


class Inputs(NamedTuple):
    """Items that were read.

    Attributes:
        names: where each was found.
        items: [N, ...].
        labels: the class of each; () if they were not asked for.
        looks: of texts and recordings, whose items do not show them, see `looks`; None of others.
    """

    names: tuple[str, ...]
    items: Tensor
    labels: tuple[str, ...] = ()
    looks: Tensor | None = None

    def of(self, numbers: Sequence[int]) -> Inputs:
        """Return the items of these numbers."""
        names, labels = (tuple(values[i] for i in numbers if values) for values in (self.names, self.labels))
        return Inputs(names, self.items[numbers], labels, None if self.looks is None else self.looks[numbers])


class Reader(NamedTuple):
    """How the files of some data become items.

    Attributes:
        facts: of the items.
        preprocessing: how a file becomes one.
        tokenizer: the folder of an encoder's own tokenizer, or "".
        column: the columns of tables, by role (label, path, text), where they do not have usual names.
    """

    facts: Facts
    preprocessing: Mapping[str, Any]
    tokenizer: str = ""
    column: Mapping[str, str] = {}

    @property
    def kind(self) -> str:
        """What files are read as: image, audio, text or table; "" if they cannot be."""
        return kind_of(self.facts.kind, self.preprocessing)

    def labelled(self, source: str) -> Inputs:
        """Read labelled items in their order: a folder with a folder for each class, an archive of it, or a table.

        Raises:
            UserError: if it cannot be used.
        """
        self._check_kind()
        path = _existing(source)
        with _about(source):
            found = self._labelled(path)
        for name in sorted(set(found.labels)):
            check_class(name)
        return found

    def support(self, source: str) -> Inputs:
        """Read labelled items class by class, see `labelled`.

        Raises:
            UserError: if they cannot be used, are of fewer than two classes, or if the folder of a class is empty.
        """
        found = self.labelled(source)
        path = Path(expanded(source))
        for folder in sorted(path.iterdir()) if path.is_dir() else []:
            if folder.is_dir() and not folder.name.startswith(".") and not any(folder.iterdir()):
                raise UserError(f"{folder} is empty: put examples into it, or remove it")
        classes = sorted(set(found.labels))
        if len(classes) < 2:
            told = f"has only the class {classes[0]}" if classes else "has no classes"
            raise UserError(f"{source} {told}; two or more are needed, each with a folder or a label of its own")
        return found.of(sorted(range(len(found.labels)), key=lambda i: found.labels[i]))

    def queries(self, sources: Sequence[str]) -> Inputs:
        """Read items without labels: files, folders, archives and tables; for texts also the texts themselves.

        Raises:
            UserError: if one of them cannot be used.
        """
        return self._all(sources, self._queries)

    def of_class(self, name: str, sources: Sequence[str]) -> Inputs:
        """Read items of a class, from what `queries` takes; of a table with a column of labels, those with its name.

        Raises:
            UserError: if one of them cannot be used, or has items of several classes.
        """
        return self._all(sources, lambda source: self._of_class(name, source))

    def _all(self, sources: Sequence[str], read: Callable[[str], Inputs]) -> Inputs:
        """Read each source, and return the items of all."""
        self._check_kind()
        parts, errors = list[Inputs](), list[UserError]()
        for source in sources:
            with gathered(errors):
                parts.append(read(source))
        raise_all(errors)
        names = tuple(name for part in parts for name in part.names)
        if not names:
            raise UserError(f"{', '.join(sources)}: there is nothing to read")
        looks = [part.looks for part in parts if part.looks is not None]
        return Inputs(names, torch.cat([p.items for p in parts if p.names]), looks=torch.cat(looks) if looks else None)

    def of_files(self, paths: Sequence[str]) -> Tensor:
        """Return the items [N, ...] of files of pictures or sounds.

        Raises:
            UserError: with those that cannot be read.
        """
        return torch.cat([self._decoded(files_named(p.parent, [p.name]), [p.name])[0] for p in map(_existing, paths)])

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the ids [N, L] of texts."""
        return encoded(texts, self.preprocessing, self.tokenizer).ids

    def of_images(self, pictures: Sequence[Any]) -> Tensor:
        """Return the items [N, C, P, P] of pictures of Pillow."""
        found = [pixels.as_before(picture, self.preprocessing) for picture in pictures]
        return torch.from_numpy(floats(np.stack(found)))

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the vectors [N, D] of rows of a table."""
        names = dict.fromkeys(name for row in rows for name in row)
        return self._rows({name: [row.get(name) for row in rows] for name in names})

    def _check_kind(self) -> None:
        if not self.kind:
            told = "the learner was not trained on files of pictures, sounds, texts or a table, so that it reads none"
            raise UserError(f"{told}; in Python it takes arrays: metalearn_cli.load(RUN)")

    def _labelled(self, path: Path) -> Inputs:
        if self.kind == "table":
            columns = columns_of(path)
            labels = [word_of(value) for value in self._column(columns, "label", path)]
            if bare := [columns.place(row) for row, label in enumerate(labels) if not label]:
                raise UserError(f"{path}, {bare[0]} has no label")
            return Inputs(_places(columns, path), self._rows(columns), tuple(labels))
        if self.kind == "text":
            manifest, files = passages(path, {**COLUMN_OF_TEXTS, **self.column}), None
        else:
            endings = ENDINGS[self.kind]
            manifest, files = of_source(path, {**COLUMN, **self.column}, lambda found: of_folders(found, endings))
        _check(manifest.findings)
        labels, sources = [e.class_name for e in manifest.entries], [e.source for e in manifest.entries]
        read = self._decoded(files, sources) if files else self._encoded([passage.text for passage in sources])
        return Inputs(tuple(map(manifest.place, sources)), read[0], tuple(labels), read[1])

    def _queries(self, source: str) -> Inputs:
        if not source.strip():
            raise UserError("one of the words is empty; give the name of a file or folder, or for texts a text")
        path = Path(expanded(source))
        if self.kind == "text" and not there(path) and not _is_file_name(source):
            return _unlabelled((shown(source)[1:-1],), self._encoded([source]))
        path = _existing(source)
        with _about(source):
            if self.kind == "table":
                columns = columns_of(path)
                return Inputs(_places(columns, path), self._rows(columns))
            if self.kind == "text":
                found = self._texts(path)
                return _unlabelled([p.where for p in found], self._encoded([p.text for p in found]))
            if not (is_table(path.name) or path.is_dir() or is_archive(path.name)):
                return _unlabelled([source], self._decoded(files_named(path.parent, [path.name]), [path.name]))
            files, names = self._files(path)
            return _unlabelled(names, self._decoded(files, names))

    def _of_class(self, name: str, source: str) -> Inputs:
        found, path = self._queries(source), Path(expanded(source))
        if there(path) and is_table(path.name):
            columns = columns_of(path)
            with _about(source):
                column = named(columns, "label", self.column, path, needed=False)
            learnt = [own["name"] for own in self.preprocessing.get("columns", ())]
            if column is None or (column[0] in learnt and "label" not in self.column):
                return found
            labels = [word_of(value) for value in column[1]]
            if name not in labels:
                told = f"{source} has no items of the class {name}; its column {column[0]} has {_some(set(labels))}"
                raise UserError(f"{told}; with column.label= all its items are of the class")
            return found.of([i for i, label in enumerate(labels) if label == name])
        folders = {str(PurePosixPath(own).parent) for own in found.names}
        if len(folders) > 1:
            told = f"{source} has items in several folders, {_some(folders)}, and a class is one folder"
            one = f"{source.rstrip('/')}/{name if name in folders else max(folders)}"
            cure = "unpack it, and name that one" if is_archive(path.name) else f"name that one: {one}"
            raise UserError(f"{told}; {cure}")
        return found

    def _files(self, path: Path) -> tuple[Files, list[str]]:
        """Return the files of a folder, archive or table, and the names of those that are items."""
        if is_table(path.name):
            names = [word_of(value) for value in self._column(columns_of(path), "path", path)]
            files = files_named(path.parent, names)
        else:
            files = files_in(path)
            names = sorted(name for name in files.names if suffix(name) in ENDINGS[self.kind])
        _check(files.findings)
        if not names:
            raise UserError(f"{path} has no files of {', '.join(ENDINGS[self.kind])}")
        return files, names

    def _texts(self, path: Path) -> list[Passage]:
        """Return the texts of a table, of the lines of a text file, or of the text files of a folder."""
        if is_table(path.name):
            columns = columns_of(path)
            texts = self._column(columns, "text", path)
            return [Passage(word_of(t), where) for t, where in zip(texts, _places(columns, path), strict=True)]
        if path.is_dir() or is_archive(path.name):
            files = files_in(path)
            names = sorted(name for name in files.names if suffix(name) == ".txt")
            return [Passage(decoded(files.read(name, MOST_TEXT), name), name) for name in names]
        lines = enumerate(decoded(path.read_bytes(), path.name).split("\n"), 1)
        return [Passage(line, f"{path.name}, line {number}") for number, line in lines if line.strip()]

    def _column(self, columns: Columns, role: str, path: Path) -> Sequence[Any]:
        found = named(columns, role, self.column, path)
        assert found is not None  # it is needed
        return found[1]

    def _encoded(self, texts: Sequence[str]) -> _Read:
        """Return texts as items, and their looks."""
        return self.of_texts(texts), torch.from_numpy(looks.of_texts(texts))

    def _decoded(self, files: Files, names: Sequence[str]) -> _Read:
        """Return files as items, and their looks.

        Raises:
            UserError: with those that cannot be read.
        """
        largest = pixels.LARGEST if self.kind == "image" else waves.LARGEST

        def decoded(name: str) -> Any:
            try:
                return decoding.decoded(files.read(name, largest), self.kind, self.preprocessing)
            except ValueError as error:
                return Finding(True, name, str(error))

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(decoded, names))
        _check([item for item in found if isinstance(item, Finding)])
        seen = torch.tensor([look for _, look in found]) if self.kind == "audio" else None
        return torch.from_numpy(floats(np.stack([item for item, _ in found]))), seen

    def _rows(self, columns: Columns) -> Tensor:
        learnt = self.preprocessing["columns"]
        if missing := [column["name"] for column in learnt if column["name"] not in columns]:
            raise UserError(f"there is no column {', '.join(missing)}, which the learner was trained with")
        try:
            return torch.from_numpy(vectors(columns, learnt))
        except ValueError as error:
            raise UserError(f"the column {error}, as in training") from error


def _unlabelled(names: Sequence[str], read: _Read) -> Inputs:
    return Inputs(tuple(names), read[0], looks=read[1])


def check_class(name: str) -> None:
    """Check the name of a class.

    Raises:
        UserError: if it cannot be used.
    """
    if not name.isprintable() or not name or name != name.strip():
        raise UserError(f"the name of a class must be printable, without spaces around it, got {name!r}")


def _some(names: Collection[str]) -> str:
    """Return the first of some names."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(sorted(names)[:LISTED])}{more}"


def _existing(source: str) -> Path:
    path = Path(expanded(source))
    if not source or not there(path):  # "" would be the current folder
        raise UserError(f"there is no file or folder {shown(source)[1:-1]}")
    return path


def _is_file_name(text: str) -> bool:
    """Whether a text that is no file was probably meant as one."""
    return text.lower().endswith((".txt", *TABLES, *ARCHIVES))


def _places(columns: Table, path: Path) -> tuple[str, ...]:
    """Return where each row of a table is."""
    return tuple(f"{path.name}, {columns.place(row)}" for row in range(len(next(iter(columns.values())))))


def _check(findings: Sequence[Finding]) -> None:
    """Raise what makes files useless.

    Raises:
        DataError: if anything does.
    """
    if blocking := [finding for finding in findings if finding.blocks]:
        raise DataError(blocking)


@contextmanager
def _about(source: str) -> Iterator[None]:
    """Within a block, have messages name a source, where the readers name the setting `data.root`.

    Raises:
        UserError: as the block does.
    """
    try:
        yield
    except DataError as error:
        told = [
            f"{source if f.where in ('data.root', Path(source).name) else f.where} {f.told}"
            for f in error.findings[:LISTED]
        ]
        more = len(error.findings) - len(told)
        raise UserError("; ".join([*told, *[f"and {more} more"] * bool(more), *filter(None, [error.cure])])) from error
    except ConfigError as error:
        raise UserError("; ".join(p.message.replace("data.column.", "column.") for p in error.problems)) from error
