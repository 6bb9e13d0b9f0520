"""Atomic writing of files, and locks on folders.

All files of the package are written by `writing`: to a temporary file beside the target, which is flushed to the disk
and replaces the target in one atomic rename. A killed process, a full disk or an exception leaves the old file
unchanged.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError, StoreError

try:
    import fcntl
except ImportError:  # Windows, which locks open files itself
    fcntl = None  # type: ignore[assignment]

ADVICE = {
    errno.ENOSPC: "free some space or choose another path",
    errno.EDQUOT: "free some space or choose another path",
    errno.EROFS: "choose another path",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""Error number of the system → remedy; "check the path" for all others."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write; rename it to `path` when the block ends without an exception.

    Missing parent folders are made, links are followed, and the permissions of a replaced file are kept. Raises
    `StoreError` if the target is a folder or device, or can't be written.
    """
    with os_errors(f"write {path}"):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise StoreError(
                f"Cannot write {path}: a folder of that name is in the way; choose another file name."
            )
        if target.exists() and not target.is_file():
            raise StoreError(f"Cannot write {path}: it is no ordinary file; choose another file name.")
        make_folder(target.parent)
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # some libraries write private files
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock `folder` against other processes while the block runs; the end of a process releases its lock.

    The folder itself is locked, without a lock file. On file systems that lock files only (NFS), a file `.lock` is
    made in it and kept. On Windows there is no lock. Raises `StoreError` if another process holds the lock.
    """
    place = make_folder(folder)
    with os_errors(f"lock {place}"):
        try:
            handle = None if fcntl is None else _lock(place)
        except BlockingIOError:
            raise StoreError(
                f"Another process is at work in {folder}: wait until it is done, or choose another folder."
            ) from None
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(folder: Path) -> int:
    """Return the file descriptor that holds the lock."""
    try:
        return _flock(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return _flock(folder / ".lock", os.O_RDWR | os.O_CREAT)


def _flock(path: Path, flags: int) -> int:
    handle = os.open(path, flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder that no other process writes to."""
    for rest in folder.glob(".*.part"):
        rest.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically; surrogates (undecodable bytes of a file's name) are escaped."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content`, atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises `InputError` for values without a JSON form: NaN, ∞, objects.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot write {path}: its content is not JSON ({error}).") from error
    write_text(path, text + "\n")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file. Raises `StoreError` if it is missing, a folder, unreadable or not text."""
    source = existing_file(path)
    with os_errors(f"read {source}"):
        try:
            return source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise StoreError(f"Cannot read {source}: it is not a UTF-8 text file.") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises `StoreError` if it is missing or not valid JSON."""
    text = read_text(path)
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"Cannot read {path}: not valid JSON ({error}): repair or delete it.") from None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for NaN, ∞ and numbers past the range of float64.

    >>> parse_json('{"top1": 0.5}')
    {'top1': 0.5}
    """
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _whole(text: str) -> int:
    return int(text) if math.isfinite(float(text)) else _no_number(text)


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a `Path`. Raises `StoreError` unless it is an existing file."""
    source = Path(path)
    with os_errors(f"read {source}"):
        if source.is_dir():
            raise StoreError(f"Cannot read {source}: it is a folder, a file was expected.")
        if not source.exists():
            raise StoreError(f"Cannot read {source}: there is no such file.")
    return source


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents. Raises `StoreError` if a file has its name or permission is denied."""
    folder = Path(path)
    with os_errors(f"make the folder {folder}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(
                f"Cannot make the folder {folder}: a file is in the way; choose another path."
            ) from None
    return folder


@contextmanager
def os_errors(action: str) -> Iterator[None]:
    """Convert an `OSError` of the block (no permission, disk full, …) to a `StoreError` that names `action`.

    So is the `ValueError` for a name that no file can have, with a NUL in it or in no encoding.
    """
    try:
        yield
    except StoreError:
        raise
    except ValueError as error:
        if not (isinstance(error, UnicodeEncodeError) or "null" in str(error)):
            raise
        raise StoreError(f"Cannot {action}: no file can have this name; choose another path.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, "check the path")
        raise StoreError(f"Cannot {action}: {reason}; {advice}.") from error
