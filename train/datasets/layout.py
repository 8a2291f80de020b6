"""Layouts as path templates: which files of a folder belong together, and a data set made of them. Decoding is in `readers`.

A template is a path with fields, `{split}/{scene}/left/{frame}.png`. A field is a piece of one name; `{scene:**}`, as a whole part of the
path, is any number of folders, also none. Files with the same fields are one sample, so that nothing is paired by its position in a list
and no path is made by replacing text in another. The field `{suffix}`, one of `SUFFIXES`, may differ between the files of a sample.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.datasets.base import SampleError
from train.datasets.readers import depth_disparity
from train.sample import StereoSample
from utils.calibration import Calibration
from utils.errors import UserError, shorten
from utils.images import read_image

SUFFIX = "suffix"
SUFFIXES = "png|jpe?g|ppm|pgm|bmp|tiff?|webp|pfm|npy|npz|exr|raw"  # of pictures and ground truth; what else lies about is passed over
FIELD = re.compile(r"\{(\w+)(:\*\*)?\}")
Fields = dict[str, str]
Files = Mapping[str, Path]
Decode = Callable[..., StereoSample]  # (files) or, where there are notes, (files, note)


class Row(NamedTuple):
    """One sample: its key, and role -> path below the root with `/` between the parts ("" where an optional file is absent)."""

    key: str
    files: dict[str, str]


def find(root: Path, template: str, folders: dict[str, list[str]] | None = None) -> dict[str, Fields]:
    """Files under `root` that match the template -> their fields. Hidden ones are passed over; folders are listed, no file is touched.

    folders: what has been seen of the tree, to be shared by templates that walk it. Raises UserError where that cannot be done.
    """
    found: dict[str, Fields] = {}
    try:
        _descend(root, "", [_part(part) for part in template.split("/")], {}, found, {} if folders is None else folders)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be looked at ({error.strerror}); make it readable, or take it away") from None
    return found


def open_files(
    kind: str,
    root: Path | None,
    required: Mapping[str, str],
    decode: Decode,
    *,
    key: str,
    optional: Mapping[str, str] | None = None,
    keep: Callable[[Fields], bool] | None = None,
    choose: Mapping[str, Sequence[str] | None] | None = None,
    allow_unpaired: bool = False,
) -> "FileDataset":
    """The data set of the samples under `root`, sorted by key.

    required, optional: role -> template; the first is what is searched for, the role `disparity_right` says that there is such a thing.
    A template may leave fields of the others out (one calibration per scene).
    decode: role -> path, without the optional files that are absent, to the sample; a file that cannot be decoded raises OSError or
    ValueError with its name. A plain function or a `functools.partial` of one, so that worker processes can receive it.
    key: a template for the sample's name, of the fields of the first role. keep: whether files with these fields take part.
    choose: field of the first role -> the values that take part, None for all there are.
    Raises UserError where there is no sample, or none with a chosen value, and for files without partners unless `allow_unpaired` says to
    leave them out.
    """
    root = check_root(kind, root, _shown(required))
    chosen = {name: values for name, values in (choose or {}).items() if values is not None}

    def takes(fields: Fields) -> bool:
        return all(name not in fields or fields[name] in values for name, values in chosen.items()) and (keep is None or keep(fields))

    templates, folders = dict(required) | dict(optional or {}), {}
    tables = {role: _index(root, template, takes if chosen or keep else None, folders) for role, template in templates.items()}
    names = {role: field_names(template) for role, template in templates.items()}
    first = next(iter(required))
    name_of = FIELD.sub(lambda match: f"{{{names[first].index(match[1])}}}", key).format
    places = {role: [names[first].index(name) for name in own] for role, own in names.items()}
    complete, unpaired, seen = [], [], set()
    for fields, path in tables[first].items():
        files = {role: table.get(tuple([fields[k] for k in places[role]]), "") for role, table in tables.items()}
        lacking = [role for role in required if not files[role]]
        if lacking:
            unpaired.append(f"{path} has no {' and no '.join(lacking)}")
        else:
            complete.append(Row("/".join(filter(None, name_of(*fields).split("/"))), files))
            seen.update((name, fields[names[first].index(name)]) for name in chosen)
    for role in list(required)[1:]:
        if not _shared(names, role, first):
            order = [names[role].index(name) for name in names[first]]
            lonely = [path for fields, path in tables[role].items() if tuple([fields[k] for k in order]) not in tables[first]]
            unpaired += [f"{path} has no {first}" for path in lonely]
    check_complete(kind, root, complete, unpaired, allow_unpaired, _shown(required))
    if missing := [f"{name} '{value}'" for name, values in chosen.items() for value in values if (name, value) not in seen]:
        raise UserError(f"{kind}: no {missing[0]} under {root} (looked for {_shown(required)}); add it, or choose only what is there")
    return FileDataset(kind, root, sorted(complete, key=lambda row: row.key), decode)


def check_root(kind: str, root: Path | None, expected: str) -> Path:
    """The folder of a data set, or UserError that says what is expected in it."""
    if root is None:
        raise UserError(f"{kind}: no path given; pass the folder that contains {expected}")
    if not os.path.isdir(root):  # which, unlike `Path.is_dir`, does not raise where a folder above may not be entered
        found = "is a file, not a folder" if os.path.exists(root) else "no such folder"
        raise UserError(f"{kind}: {root}: {found}; pass the folder that contains {expected}")
    return root


def check_complete(kind: str, root: Path, complete: Sequence[Row], unpaired: Sequence[str], allow_unpaired: bool, looked_for: str) -> None:
    """UserError where there is no sample, or where files lack their partners and that is not allowed."""
    if unpaired and not (allow_unpaired and complete):
        raise UserError(
            f"{kind}: {root}: {len(unpaired)} unpaired files beside {len(complete)} complete samples: {shorten(sorted(unpaired), 3)}; add "
            f"the missing ones{', or set allow_unpaired to true to leave these out' if complete else ''} (looked for {looked_for})"
        )
    if not complete:
        raise UserError(f"{kind}: no sample under {root} (looked for {looked_for}); pass the folder that contains these")


class FileDataset:
    """Samples that are read from files, see `base.StereoDataset`. Made by `open_files`."""

    has_pose = False  # no published set knows how far its rectification is off

    def __init__(self, kind: str, root: Path, rows: Sequence[Row], decode: Decode, notes: Sequence[Any] | np.ndarray = ()) -> None:
        """notes: one per row, which `decode` gets as a second argument; what a sample is decoded with beside its files."""
        self.kind, self.root = kind, root
        self.has_right_disparity = any(row.files.get("disparity_right") for row in rows)
        self.decode, self._notes = decode, notes
        self._roles = list(rows[0].files)
        self._rows = Lines("\0".join([row.key, *row.files.values()]) for row in rows)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, i: int) -> str:
        return self._rows[i].partition("\0")[0]

    def row(self, i: int) -> Row:
        """Sample `i` as it was given."""
        key, *files = self._rows[i].split("\0")
        return Row(key, dict(zip(self._roles, files, strict=True)))

    def paths(self, i: int) -> dict[str, Path]:
        """Role -> file of sample `i`, those that are there."""
        return {role: self.root / file for role, file in self.row(i).files.items() if file}

    def files(self, i: int) -> list[Path]:
        return list(self.paths(i).values())

    def load(self, i: int) -> StereoSample:
        try:
            sample = self.decode(self.paths(i), *self._notes[i : i + 1]).replace(key=self.key(i))
        except (OSError, ValueError) as error:
            raise SampleError(f"{self.kind}: {self.key(i)}: {error}") from error
        parts = ("left", "right", "disparity", "disparity_right", "occluded")
        shapes = {name: part.shape[:2] for name in parts if (part := getattr(sample, name)) is not None}
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{name} {shape[1]}x{shape[0]}" for name, shape in shapes.items())
            raise SampleError(f"{self.kind}: {self.key(i)}: sizes differ: {sizes}")
        return sample


def join_files(parts: Sequence[FileDataset]) -> FileDataset:
    """One data set of several with the same root and decoder, whose files are called differently; sorted by key."""
    roles = dict.fromkeys(role for part in parts for role in part.row(0).files)
    rows = [part.row(i) for part in parts for i in range(len(part))]
    whole = [Row(row.key, {role: row.files.get(role, "") for role in roles}) for row in rows]
    return FileDataset(parts[0].kind, parts[0].root, sorted(whole, key=lambda row: row.key), parts[0].decode)


def read_pair(
    files: Files,
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]],
    picture: Callable[[Path], np.ndarray] = read_image,
    **others: Any,
) -> StereoSample:
    """The sample of the roles `left`, `right`, `disparity` and, where it is there, `disparity_right`, which most layouts consist of.

    read: decodes both disparities, one of `readers` with its scale. picture: decodes both images. others: further fields, as they are.
    """
    disparity, valid = read(files["disparity"])
    disparity_right, valid_right = read(files["disparity_right"]) if "disparity_right" in files else (None, None)
    return StereoSample(picture(files["left"]), picture(files["right"]), disparity, valid, disparity_right, valid_right, **others)


def read_depth_pair(files: Files, read: Callable[[Path], np.ndarray], calibration: Calibration) -> StereoSample:
    """As `read_pair`, for files that hold depth; `read` decodes them to metres. calibration: of any size, the sample's is at its own."""
    sample = read_pair(files, lambda path: depth_disparity(depth := read(path), calibration.scaled(_size(depth))))
    return sample.replace(calibration=calibration.scaled(_size(sample.disparity)))


def restrict(sample: StereoSample, where: np.ndarray) -> StereoSample:
    """The sample with the left view's ground truth only `where` that is true, bool (H, W)."""
    valid = sample.valid & where
    return sample.replace(disparity=np.where(valid, sample.disparity, np.float32(0)), valid=valid)


def _size(values: np.ndarray) -> tuple[int, int]:
    return values.shape[1], values.shape[0]


class Lines(Sequence[str]):
    """Texts in one block of bytes: a million of them as objects would be copied into every worker process, reference count by count."""

    def __init__(self, lines: Iterable[str]) -> None:
        encoded = [line.encode("utf-8", "surrogateescape") for line in lines]
        self._ends = np.cumsum([len(line) for line in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):  # pyright: ignore[reportIncompatibleMethodOverride] (slices are not needed)
        start = 0 if i == 0 else self._ends[i - 1]
        return self._bytes[start : self._ends[i]].decode("utf-8", "surrogateescape")


# ---- templates --------------------------------------------------------------------------------------------------------------------------


def _index(root: Path, template: str, keep: Callable[[Fields], bool] | None, folders: dict[str, list[str]]) -> dict[tuple[str, ...], str]:
    """Values of the template's fields, but the suffix, -> path. Raises UserError for two files that differ in their suffix only."""
    names, table = field_names(template), {}
    for path, fields in find(root, template, folders).items():
        if keep is not None and not keep(fields):
            continue
        values = tuple(map(fields.__getitem__, names))
        if values in table:
            raise UserError(f"{root}: {' and '.join(sorted([path, table[values]]))} are two files for one place; remove one of them")
        table[values] = path
    return table


def from_glob(pattern: str) -> str:
    """A template of a path with the wildcards `*` and `**`: they become fields in their order, a `.*` at the end any suffix.

    So `left/*/*.png` and `disp/*/*.pfm` are paired by their first and second wildcard. Fields that are written out stay as they are.
    Raises UserError for what is neither.
    """
    parts, count = [], 0
    for part in pattern.split("/"):
        if part == "**" or (FIELD.fullmatch(part) and part.endswith(":**}")):
            count += part == "**"
            parts.append(f"{{_{count}:**}}" if part == "**" else part)
            continue
        wrong = [name for name, _ in FIELD.findall(part) if not name.isidentifier()]  # which no regular expression takes
        if wrong or "**" in part or part in ("", ".", "..") or re.search(r"[][?{}]", FIELD.sub("", part)):
            raise UserError(
                f"'{pattern}': expected a path below the data set's folder with * for a piece of a name, ** for any number of folders and "
                f"fields such as {{frame}}; found '{part}'"
            )
        for piece in re.findall(r"\*", part):
            count += 1
            part = part.replace(piece, f"{{_{count}}}", 1)
        parts.append(part)
    last = re.sub(r"\.\{_\d+\}$", ".{suffix}", parts[-1]) if pattern.endswith(".*") else parts[-1]
    return "/".join([*parts[:-1], last])


def field_names(template: str) -> list[str]:
    """The fields of a template in their order, without `suffix`."""
    return [name for name in dict.fromkeys(match[1] for match in FIELD.finditer(template)) if name != SUFFIX]


def _shared(names: Mapping[str, list[str]], role: str, first: str) -> bool:
    """Whether files of `role` serve several samples, or none: then one that no sample uses is nothing to report."""
    return set(names[role]) < set(names[first])


def _shown(templates: Mapping[str, str]) -> str:
    return ", ".join(FIELD.sub(lambda match: "**" if match[2] else "*", template) for template in templates.values())


class Folders(NamedTuple):
    """A part of a template that stands for any number of folders."""

    field: str


Part = str | re.Pattern[str] | Folders


def _part(part: str) -> Part:
    whole = FIELD.fullmatch(part)
    if whole and whole[2]:
        return Folders(whole[1])
    if not FIELD.search(part):
        return part
    pattern, end, seen = "", 0, set()
    for match in FIELD.finditer(part):
        assert not match[2], f"{match[0]} must be a whole part of the path, found '{part}'"
        pattern += re.escape(part[end : match.start()])
        pattern += f"(?P={match[1]})" if match[1] in seen else f"(?P<{match[1]}>{f'(?i:{SUFFIXES})' if match[1] == SUFFIX else '.+'})"
        seen.add(match[1])
        end = match.end()
    return re.compile(pattern + re.escape(part[end:]))


def _descend(root: Path, folder: str, parts: list[Part], fields: Fields, found: dict[str, Fields], folders: dict[str, list[str]]) -> None:
    part, rest = parts[0], parts[1:]
    if isinstance(part, Folders):
        for inner in _below(root, folder, folders):
            _descend(root, inner, rest, fields | {part.field: inner[len(folder) :].strip("/")}, found, folders)
    elif isinstance(part, str):
        path = _join(folder, part)
        if rest and (root / path).is_dir():
            _descend(root, path, rest, fields, found, folders)
        elif not rest and (root / path).is_file():
            found[path] = fields
    else:
        again = fields.keys() & part.groupindex.keys()
        for name in _folders(root, folder, folders) if rest else _files(root / folder):
            match = part.fullmatch(name)
            if not match or (again and any(match[field] != fields[field] for field in again)):
                continue
            if rest:
                _descend(root, _join(folder, name), rest, fields | match.groupdict(), found, folders)
            else:
                found[_join(folder, name)] = fields | match.groupdict()


def _below(root: Path, folder: str, folders: dict[str, list[str]]) -> Iterator[str]:
    """`folder` and every folder below it; a link is followed unless it leads to where we have been."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        inner = waiting.pop()
        real = os.path.realpath(root / inner)
        if real not in seen:
            seen.add(real)
            yield inner
            waiting += [_join(inner, name) for name in reversed(_folders(root, inner, folders))]


def _folders(root: Path, folder: str, folders: dict[str, list[str]]) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones, and `folders` remembers them."""
    if folder not in folders:
        with os.scandir(root / folder) as entries:
            folders[folder] = sorted([entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")])
    return folders[folder]


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder, without hidden ones."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
