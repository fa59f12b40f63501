from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcourse.errors import StorageError
from rlcourse.files import atomic_directory, atomic_path, sha256_of, write_json, write_text


def refuse(code: int) -> Callable[..., None]:
    def failing(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return failing


@pytest.fixture
def old(tmp_path: Path) -> Path:
    target = tmp_path / "report.json"
    target.write_text("old")
    return target


def test_a_file_is_replaced_and_nothing_else_is_left(old: Path) -> None:
    write_text(old, "new")
    assert old.read_text() == "new"
    assert [path.name for path in old.parent.iterdir()] == ["report.json"]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a/b/c.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a/b/c.json").read_text()) == {"x": [1, 2.5, None]}


def test_json_knows_no_nan_and_the_old_file_stays(old: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(old, {"x": float("nan")})
    assert old.read_text() == "old"


def test_the_new_file_may_be_read_by_whoever_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
        with atomic_directory(tmp_path / "folder") as part:
            (part / "file").write_text("text")
        assert os.umask(0o027) == 0o027, "asking for the umask must not change it"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    old: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    monkeypatch.setattr(os, call, refuse(code))
    with pytest.raises(StorageError, match=os.strerror(code)):
        write_text(old, "new")
    assert [path.name for path in old.parent.iterdir()] == ["report.json"]
    assert old.read_text() == "old"


def test_each_refusal_has_a_mend_of_its_own(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mends = []
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO):
        monkeypatch.setattr(os, "fsync", refuse(code))
        with pytest.raises(StorageError) as caught:
            write_text(old, "new")
        mends.append(caught.value.mend)
    assert len(set(mends)) == 5
    assert "space" in mends[0] and "quota" in mends[1]


def test_a_parent_that_is_a_file_is_a_storage_error(old: Path) -> None:
    with pytest.raises(StorageError):
        write_text(old / "below", "new")
    with pytest.raises(StorageError), atomic_directory(old / "below"):
        raise AssertionError("never reached")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_goes_wrong_inside_the_block_the_old_one_stays(old: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_path(old) as part:
        part.write_text("half of the n")
        raise error
    assert old.read_text() == "old"
    assert [path.name for path in old.parent.iterdir()] == ["report.json"]


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    target = tmp_path / "set"
    target.mkdir()
    (target / "a").write_text("old")
    return target


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_as_a_whole(old_folder: Path) -> None:
    with atomic_directory(old_folder) as part:
        (part / "b").write_text("new")
        assert contents(old_folder) == {"a": "old"}, "visible only when complete"
    assert contents(old_folder.parent) == {"set/b": "new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_folder_half_written_vanishes(old_folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_directory(old_folder) as part:
        (part / "b").write_text("new")
        raise error
    assert contents(old_folder.parent) == {"set/a": "old"}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(
    old_folder: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    rename, calls = os.rename, 0

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(StorageError), atomic_directory(old_folder) as part:
        (part / "b").write_text("new")
    assert contents(old_folder.parent) == {"set/a": "old"}


def test_a_folder_that_cannot_be_flushed_leaves_the_old_one(old_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(StorageError, match="untouched"), atomic_directory(old_folder) as part:
        (part / "b").write_text("new")
    assert contents(old_folder.parent) == {"set/a": "old"}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)) * 5_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(bytes(range(256)) * 5_000).hexdigest()
