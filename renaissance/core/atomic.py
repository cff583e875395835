"""Files that appear under their name complete, or not at all: arrow files, checkpoints, and what a run writes beside them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import UserError, require

LOCK = ".lock"


class AtomicFile:
    """A binary file that is written beside its target and renamed by `commit`. A context manager.

    The temporary file has one name a target, `.<name>.tmp`, and is locked: what a killed run left is written over, and
    a second run for the same target is refused instead of mixed in.

    Args:
        target: the path it is meant for.
        setting: the setting that decided where the target lies, for the sentence of a refusal.

    Raises:
        UserError: it cannot be written (no right, disk full), or another run is writing it. The target is unchanged.
    """

    closed = False  # pyarrow asks, as of any file

    def __init__(self, target: Path, setting: str):
        self._target, self._setting = target, setting
        self._temporary = target.with_name(f".{target.name}.tmp")
        self._committed = False
        self._failure: BaseException | None = None

    def __enter__(self) -> AtomicFile:
        with self._explaining():
            self._file = os.fdopen(self._locked(), "wb", buffering=1 << 20)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._committed:
            self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what `commit` did not bring to the disk is thrown away
            self._file.close()
        # A library in C that was writing makes an error of its own of any other: of a full disk, of a Ctrl-C.
        if self._failure not in (None, error):
            raise self._failure from None

    def write(self, content: bytes) -> int:
        """Append; anything that has the buffer protocol is taken."""
        with self._explaining():
            return self._file.write(content)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: `commit` brings everything to the disk at once."""

    def sync(self) -> None:
        """Bring what was written to the disk: `commit` then needs no more room."""
        with self._explaining():
            self._file.flush()
            os.fsync(self._file.fileno())

    def commit(self, target: Path | None = None) -> None:
        """Bring the content to the disk and give it its name, replacing what has it; the folder is synchronised too.

        Args:
            target: another name in the same folder than the one it was meant for.
        """
        self.sync()
        with self._explaining():
            _rename(self._temporary, target or self._target)
            self._committed = True

    def _locked(self) -> int:
        handle = _open_locked(self._temporary, fcntl.flock)
        require(handle is not None, f"Another run is writing '{self._target}'; wait for it, or end it.")
        os.ftruncate(handle, 0)
        return handle

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns the system's refusals into a sentence, and keeps whatever else comes up in here."""
        try:
            yield
        except OSError as error:
            what = f"'{self._target}' cannot be written ({error.strerror}); give"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                what = f"There is no room left for '{self._target}' ({error.strerror}); it is as it was. Free space, or give"
            self._failure = UserError(f"{what} another {self._setting}.")
            raise self._failure from None
        except BaseException as error:
            self._failure = error
            raise


def write_whole(target: Path, content: bytes, setting: str) -> None:
    """Writes a small file through `AtomicFile`, into a folder that is made where there is none; errors are its."""
    with contextlib.suppress(OSError):  # explained by what writes into it
        target.parent.mkdir(parents=True, exist_ok=True)
    with AtomicFile(target, setting) as file:
        file.write(content)
        file.commit()


class FileLock:
    """A folder that this process alone writes to, until `release` or its end, however it ends.

    Args:
        folder: which.
        name: of the file that is locked; another name than the usual one holds something else that belongs to the folder.

    Raises:
        UserError: another process holds it, or it cannot be written.
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
        doing = "training" if name == LOCK else "starting the same command"
        require(self._handle is not None, locked(folder, doing))

    def release(self) -> None:
        if self._handle is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def locked(folder: Path, doing: str = "training") -> str:
    """The sentence of a folder that another process has locked."""
    return f"Another process is {doing} in '{folder}'; wait for it or end it, or give another exp_name."


def is_locked(folder: Path) -> bool:
    """Whether another process holds a folder (`FileLock`); False where the file system has no locks. Not for one's own folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # there is none
        return False
    with os.fdopen(handle, "rb"):
        try:
            fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def rename_damaged(path: Path) -> Path:
    """Renames what cannot be used to `<name>.damaged`, with a number where that is taken, and returns where it is now."""
    free, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.damaged_{number}")
    return path.rename(free)


def link_or_copy(source: Path, target: Path, setting: str) -> None:
    """Gives the complete file `source` a second name in the same folder, replacing what has it.

    It is a hard link, which takes no time and no room; a copy where the file system has none.

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
    """The handle of a file that no other process has locked, made where it is not there; None where one has.

    Args:
        lock: function of fcntl. A file system without locks lets everybody through.
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
