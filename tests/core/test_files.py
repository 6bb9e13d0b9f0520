"""Files appear whole or not at all, and what goes wrong is told in a sentence."""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.core.errors import InputError, StoreError
from secateur.core.files import (
    existing_file,
    locked,
    make_folder,
    os_errors,
    read_json,
    read_text,
    write_bytes,
    write_json,
    write_text,
    writing,
)

WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "bytes": lambda path: write_bytes(path, b"new"),
    "json": lambda path: write_json(path, ["new"]),
}
writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    """Make a function of `os` fail as the system would."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)


@writer
def test_a_file_is_written_with_its_folders(tmp_path: Path, write: Any) -> None:
    target = tmp_path / "a" / "b" / "file"
    write(target)
    assert b"new" in target.read_bytes()
    assert names(target.parent) == ["file"]
    write(str(target))  # text paths, and again
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_the_old_file_stays_where_writing_fails(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    before = target.stat()
    expected = StoreError if isinstance(error, OSError) else type(error)

    def attempt() -> None:
        with writing(target) as temporary:
            temporary.write_text("half of")
            raise error

    with pytest.raises(expected):
        attempt()
    assert target.read_text() == "old"
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    write_text(tmp_path / "file", "old")
    refuse(monkeypatch, function, errno.ENOSPC)
    with pytest.raises(
        StoreError, match=r"^Cannot write .*file: No space left on device; free some space or .*\.$"
    ):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_truly_full_device() -> None:
    with (
        pytest.raises(StoreError, match="free some space"),
        os_errors("write /dev/full"),
        open("/dev/full", "wb") as file,
    ):
        file.write(b"x" * 10_000_000)


def test_the_other_writer_is_never_seen_half(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with writing(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent  # a rename across disks would not be atomic
        temporary.write_text("whole")
    assert target.read_text() == "whole"


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    code = (
        "import sys, time; from secateur.core.files import writing\n"
        f"with writing({str(target)!r}) as path:\n"
        "    path.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert target.read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_replaced_files_keep_their_permissions(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    target.chmod(mode)
    write_text(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("there", "dangling"):
        link = tmp_path / name
        link.symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "there").write_text("old")
    for name in ("there", "dangling"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_text() == "new"


@writer
def test_a_folder_in_the_way(tmp_path: Path, write: Any) -> None:
    with pytest.raises(StoreError, match="a folder of that name is in the way; choose another file name"):
        write(tmp_path)
    with pytest.raises(StoreError, match="a folder of that name is in the way"):
        write("")
    assert names(tmp_path) == []


@writer
def test_a_file_in_the_way_of_a_folder(tmp_path: Path, write: Any) -> None:
    (tmp_path / "file").write_text("here")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        with pytest.raises(
            StoreError, match=r"^Cannot make the folder .*: a file is in the way; choose another path\.$"
        ):
            write(path)
    assert (tmp_path / "file").read_text() == "here"


@writer
def test_devices_are_not_replaced(tmp_path: Path, write: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="it is no ordinary file; choose another file name"):
        write(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@writer
def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", deny)
    with pytest.raises(
        StoreError, match=r"^Cannot write .*file: Permission denied; check its permissions\.$"
    ):
        write(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_files() -> None:
    with pytest.raises(StoreError, match=r"^Cannot (write|make the folder) /proc/.*\.$"):
        write_text("/proc/secateur/file", "new")


@writer
def test_names_of_every_legal_length(tmp_path: Path, write: Any) -> None:
    write(tmp_path / ("n" * 255))
    write(tmp_path / ("ü" * 127))
    with pytest.raises(StoreError, match="File name too long; choose a shorter name"):
        write(tmp_path / ("n" * 256))


# --- reading -----------------------------------------------------------------------------------------------


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_comes_back(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "file", text)
    assert read_text(tmp_path / "file") == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_comes_back(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file") == value


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")  # what a program gets for a file name in another encoding
    write_json(tmp_path / "file", {"command": name})
    assert read_json(tmp_path / "file") == {"command": name}


def knot() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": {1, 2}}, object(), {(1, 2): 3}, knot()])
def test_what_json_lacks_is_refused(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "file", "old")
    with pytest.raises(InputError, match=r"^Cannot write .*file: its content is not JSON \(.*\)\.$"):
        write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file") == "old"


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2", "nul", "{'a': 1}", "[" * 100_000, "9" * 10_000, '{"a": 1} x']
)
def test_files_that_are_not_json_are_refused(tmp_path: Path, content: str) -> None:
    write_text(tmp_path / "file", content)
    with pytest.raises(
        StoreError, match=r"^Cannot read .*file: not valid JSON \(.*\): repair or delete it\.$"
    ) as caught:
        read_json(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="it is not a UTF-8 text file"):
        read_text(tmp_path / "file")


@pytest.mark.parametrize("read", [existing_file, read_text, read_json])
def test_files_that_are_not_there_are_refused(tmp_path: Path, read: Any) -> None:
    (tmp_path / "loose").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    for name in ("gone", "loose", "gone/further", "file/further"):
        with pytest.raises(StoreError, match=r"^Cannot read .*: there is no such file\.$"):
            read(tmp_path / name)
    with pytest.raises(StoreError, match=r"^Cannot read .*: it is a folder, a file was expected\.$"):
        read(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG])
def test_trouble_in_reading_is_not_answered_with_free_some_space(number: int) -> None:
    with pytest.raises(StoreError) as caught, os_errors("read thing"):
        raise OSError(number, os.strerror(number))
    sentence = str(caught.value)
    assert sentence.startswith(f"Cannot read thing: {os.strerror(number)}; ")
    assert sentence.endswith(".")
    assert "space" not in sentence
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_are(number: int) -> None:
    with pytest.raises(StoreError, match="free some space or choose another path"), os_errors("write thing"):
        raise OSError(number, os.strerror(number))


def test_errors_of_ours_and_of_others_pass_through() -> None:
    for error in (StoreError("mine"), ValueError("yours")):
        with pytest.raises(type(error), match=r"^(mine|yours)$"), os_errors("read thing"):
            raise error
    with (
        pytest.raises(StoreError, match="Cannot read thing: homemade; check the path"),
        os_errors("read thing"),
    ):
        raise OSError("homemade")


def test_folders_are_made_once(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(StoreError, match="a file is in the way"):
            make_folder(path)


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_json(target, [9] * 1000)

    def write(number: int) -> None:
        for _ in range(10):
            write_json(target, [number] * 1000)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, number) for number in range(3)]
        seen = [read_json(target) for _ in range(100)]
        assert [future.result() for future in writers] == [None] * 3
    assert all(len(value) == 1000 and len(set(value)) == 1 for value in seen)
    assert names(tmp_path) == ["file"]


# Locks


def test_a_folder_is_one_process_s_at_a_time_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with (
            pytest.raises(StoreError, match=r"Another process is at work in .*run: wait"),
            locked(tmp_path / "run"),
        ):
            pass
        with locked(tmp_path):  # another folder
            pass
    with locked(tmp_path / "run"):
        pass
    assert names(tmp_path / "run") == []


def test_a_killed_process_lets_go_of_its_folder(tmp_path: Path) -> None:
    code = "import sys, time; from secateur.core.files import locked\n"
    code += "with locked(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match="Another process"), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path):
        pass
    assert names(tmp_path) == []


def test_where_folders_can_t_be_locked_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock = fcntl.flock

    def like_nfs(handle: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    with locked(tmp_path):
        assert names(tmp_path) == [".lock"]
        with pytest.raises(StoreError, match="Another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_lock_that_can_t_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def full(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(StoreError, match=r"Cannot lock .*: No locks available"), locked(tmp_path):
        pass
