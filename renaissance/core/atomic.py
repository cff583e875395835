"""Atomic file writes and file locks: arrow files, checkpoints and what a run writes beside them are complete or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import UserError, require

LOCK = ".lock"


class InUseError(UserError):
    """Another process writes the file."""


class NoRoomError(UserError):
    """The disk, or the user's share of it, is full."""


class AtomicFile:
    """A binary file that is written to a temporary file and renamed by `commit`. A context manager.

    The temporary file is `.<name>.tmp` beside the target and locked. One that a killed run left is overwritten; a second
    process that writes the same target is refused. On a file system without locks each has a temporary file of its own, and
    the last to commit wins.

    Args:
        target: path of the final file.
        setting: name of the setting that decided where the target lies, for error messages.

    Raises:
        UserError: the file cannot be written (permissions). The target is unchanged.
        NoRoomError: the same, of a full disk.
        InUseError: another process writes it.
    """

    closed = False  # pyarrow asks, as of any file

    def __init__(self, target: Path, setting: str):
        self._target, self._setting = target, setting
        self._temporary = _temporary_of(target)
        self._committed = False
        self._failure: BaseException | None = None

    def __enter__(self) -> AtomicFile:
        with self._explaining():
            self._file = os.fdopen(self._locked(), "wb", buffering=1 << 20)
        return self

    def close(self) -> None:
        """Close the file, at the end of the context or before; what `commit` did not bring to the disk is thrown away."""
        if not self._committed and not self._file.closed:
            self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        # A library in C that was writing makes an error of its own of any other: of a full disk, of a Ctrl-C.
        if self._failure not in (None, error):
            raise self._failure from None

    def write(self, content: bytes) -> int:
        """Append an object with the buffer protocol."""
        with self._explaining():
            return self._file.write(content)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: `commit` writes everything to the disk."""

    def sync(self) -> None:
        """Write all buffers to the disk; `commit` then needs no more space."""
        with self._explaining():
            self._file.flush()
            os.fsync(self._file.fileno())

    def commit(self, target: Path | None = None) -> None:
        """Write the content to the disk and rename the file to its target, which is replaced; then fsync the folder.

        Args:
            target: another path in the same folder.
        """
        self.sync()
        with self._explaining():
            _rename(self._temporary, target or self._target)
            self._committed = True

    def _locked(self) -> int:
        handle = _open_locked(self._temporary, fcntl.flock)
        if handle is None:
            raise InUseError(f"Another run is writing '{self._target}'; wait for it, or end it.")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # which it is, where there are locks
        except OSError:  # others may be writing it
            os.close(handle)
            self._temporary.unlink(missing_ok=True)
            self._temporary = self._target.with_name(f".{self._target.name}.{uuid.uuid4().hex}.tmp")
            return os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(handle, 0)
        return handle

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns an OSError into a UserError, and remembers any error for `__exit__`."""
        try:
            yield
        except OSError as error:
            why, give = f"({error.strerror})", f"give another {self._setting}."
            self._failure = UserError(f"'{self._target}' cannot be written {why}; {give}")
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                kept = "; it is as it was" if self._target.exists() else ""
                self._failure = NoRoomError(
                    f"There is no room left for '{self._target}' {why}{kept}. Free space, or {give}"
                )
            raise self._failure from None
        except BaseException as error:
            self._failure = error
            raise


def write_whole(target: Path, content: bytes, setting: str) -> None:
    """Writes a small file with `AtomicFile` and creates its folder; raises the same errors."""
    file = AtomicFile(target, setting)
    with file._explaining():
        target.parent.mkdir(parents=True, exist_ok=True)
    with file:
        file.write(content)
        file.commit()


class FileLock:
    """An exclusive lock on a folder, until `release` or the end of the process.

    Args:
        folder: to lock.
        name: of the lock file; another name than the default locks something else that belongs to the folder.

    Raises:
        UserError: another process has the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str = LOCK):
        self._file = folder / name
        self._handle: int | None = None
        try:
            # Not flock: the loader processes of a killed run would still have that, for some seconds.
            self._handle = _open_locked(self._file, fcntl.lockf)
        except OSError as error:
            raise UserError(
                f"'{folder}' cannot be written ({error.strerror}), and the run writes there; make it writable, or give "
                "another log_dir (resume_from: a copy of the checkpoint that lies in no run folder)."
            ) from error
        require(self._handle is not None, locked(folder, "training" if name == LOCK else "starting the same command"))

    def release(self) -> None:
        if self._handle is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def locked(folder: Path, doing: str = "training") -> str:
    """The sentence of a folder that another process has locked."""
    return f"Another process is {doing} in '{folder}'; wait for it or end it, or give another exp_name."


def is_locked(folder: Path) -> bool:
    """Whether another process has locked a folder, which may be another user's; it would free a lock of our own.

    Returns:
        False where the file system has no locks.
    """
    return _is_locked(folder / LOCK, fcntl.lockf)


def is_being_written(target: Path) -> bool:
    """Whether a process writes a file with `AtomicFile`; False where the file system has no locks."""
    return _is_locked(_temporary_of(target), fcntl.flock)


def _is_locked(path: Path, lock: Callable[[int, int], None]) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # there is none
        return False
    with os.fdopen(handle, "rb"):
        try:
            lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _temporary_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")


def rename_damaged(path: Path) -> Path:
    """Renames a damaged file or folder to its `damaged_name`, and returns the new path."""
    return path.rename(damaged_name(path))


def damaged_name(path: Path) -> Path:
    """`<name>.damaged`, with a number if that exists."""
    free, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.damaged_{number}")
    return free


def link_or_copy(source: Path, target: Path, setting: str) -> None:
    """Replaces `target` by a hard link to `source` in the same folder, or by a copy where the file system has no links.

    Raises:
        UserError: as `AtomicFile`; the target is unchanged.
    """
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)  # of a killed run
    try:
        os.link(source, link)
        _rename(link, target)
    except OSError:
        with AtomicFile(target, setting) as file, open(source, "rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
            file.commit()
    finally:
        link.unlink(missing_ok=True)  # a rename to another name of the same file leaves both


def _open_locked(path: Path, lock: Callable[[int, int], None]) -> int | None:
    """Opens or creates a file and locks it; None if another process has locked it.

    Args:
        lock: `fcntl.flock` or `fcntl.lockf`. On a file system without locks, every process gets the file.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(handle)
                return None
        # Between opening and locking, another process may have renamed or removed the file: then the name is not this one's.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
