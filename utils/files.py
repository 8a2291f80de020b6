"""Files that must not be half-written, and configuration files as people write them (JSON with comments, TOML). Nothing here knows what a
configuration means.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

NULL = "null"  # of JSON, in TOML
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\\n])*"|,(?=\s*[}\]])')


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Publish a file by renaming: readers see the old content or all of the new one, also after a crash.

    content: what to write, or a function that writes to the open file. Raises OSError that names `path`; the temporary file is gone then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp is private by design; a checkpoint is as readable as any other file of its owner
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, name):  # a full disk is told without a name
            error.filename = str(path)
        raise


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """A folder to fill in the block, which becomes `path` at its end; it is gone where the block raises. `path` must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def check_json_target(path: Path, option: str = "--output") -> None:
    """UserError for what a JSON file of results should not be written to; tables and plots lie beside it under its name."""
    if path.suffix.lower() != ".json" or path.is_dir():
        found = "is a folder" if path.is_dir() else "does not end in .json"
        raise UserError(f"{option} {path}: {found}; expected a file such as {path.with_suffix('.json').name or 'results.json'}")


def remove_leftovers(folder: Path) -> None:
    """Delete what writers of `folder` that were killed left behind, `.*.tmp`. Not while another process may be writing there."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(path: Path, expected: Mapping[str, Any]) -> str | None:
    """How a file is not what was written, in a line that begins with its path; None where it is. Reads every byte.

    expected: its "size" in bytes and its "sha256".
    """
    try:
        if not path.exists():
            return f"{path}: found no file, expected {expected['size']} bytes"
        if (size := path.stat().st_size) != expected["size"]:
            return f"{path}: found {size} bytes, expected {expected['size']}"
        if sha256(path) != expected["sha256"]:
            return f"{path}: its content is not what was written, by its digest"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return None


def inside(root: Path, relative: str, where: object) -> Path:
    """`root`/`relative`, for paths out of a file that came with a data set. UserError, beginning with `where`, for one that leads out.

    Judged by its parts: `a/../b` is fine, `../b` and `/b` are not. Links below `root` are followed, as whoever owns the folder made them.
    """
    path = os.path.normpath(relative)
    if "\0" in relative:
        raise UserError(f"{where}: {relative!r} holds a zero byte; expected the path of a file below {root}")
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise UserError(f"{where}: the path {relative!r} leads out of {root}; expected that of a file below this folder")
    return root / path


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as a dictionary: TOML by its suffix, otherwise JSON with `//` and `/* */` comments and trailing commas.

    TOML has no null; there the text "null" stands for it.

    Raises UserError with file, line and column for anything that is not an object in that syntax, and for a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 (byte {error.start}); a configuration is JSON or TOML") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass a JSON or TOML configuration") from None
    try:
        content = _with(tomllib.loads(text), NULL, None) if path.suffix == ".toml" else parse_json(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON in line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a configuration") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__} at the top; expected an object with the keys model, data, loss, ...")
    return content


def parse_json(text: str) -> Any:
    """JSON with comments and trailing commas. They become blanks, so that positions in errors stay those of the file."""

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    text = _STRING_OR_TRAILING_COMMA.sub(blank, _STRING_OR_COMMENT.sub(blank, text))
    return json.loads(text, object_pairs_hook=no_key_twice, parse_constant=_no_constant)


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object that JSON's pairs make. Raises ValueError for a key that is there twice, of which `json` keeps the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is given twice in one object")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that a configuration may hold")


def format_config(content: Mapping[str, Any], suffix: str = ".json") -> str:
    """The text of a configuration, JSON or TOML by `suffix`, which `read_config` reads as the same."""
    if suffix != ".toml":
        return json.dumps(content, indent=2) + "\n"
    import tomli_w

    return tomli_w.dumps(_with(content, None, NULL))


def _with(value: Any, old: str | None, new: str | None) -> Any:
    """The same with `new` in place of every `old`."""
    if isinstance(value, Mapping):
        return {key: _with(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with(item, old, new) for item in value]
    return new if value == old else value
