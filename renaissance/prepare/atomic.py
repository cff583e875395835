"""Files that appear under their name complete, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from types import TracebackType

from renaissance.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs that write the same file at once are then not told apart
    fcntl = None

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicFile:
    """A binary file that is written beside its target and renamed by `commit`. A context manager.

    The temporary file has one name a target, `.<name>.tmp`, and is locked: what a killed run left is written over, and
    a second run for the same target is refused instead of mixed in.

    Args:
        target: the path it is meant for.

    Raises:
        UserError: it cannot be written (no right, disk full), or another run is writing it. The target is unchanged.
    """

    closed = False  # pyarrow asks, as of any file

    def __init__(self, target: Path):
        self._target = target
        self._temporary = target.with_name(f".{target.name}.tmp")
        self._committed = False

    def __enter__(self) -> AtomicFile:
        try:
            self._file = os.fdopen(self._locked(), "wb", buffering=1 << 20)
        except OSError as error:
            raise self._explained(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what `commit` did not bring to the disk is thrown away
            self._file.close()

    def write(self, content: bytes) -> int:
        """Append; anything that has the buffer protocol is taken."""
        try:
            return self._file.write(content)
        except OSError as error:
            raise self._explained(error) from None

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: `commit` brings everything to the disk at once."""

    def commit(self, target: Path) -> None:
        """Bring the content to the disk and give it its name, replacing what has it; the folder is synchronised too."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._temporary, target)
            self._committed = True
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._explained(error) from None

    def _locked(self) -> int:
        while True:
            handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT, 0o666)
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    raise UserError(f"Another run is writing '{self._target}'; wait for it, or end it.") from None
                except OSError:
                    pass  # a file system without locks
            # Between opening and locking, another run may have renamed the file: then it is no longer ours to write.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(self._temporary)):
                    os.ftruncate(handle, 0)
                    return handle
            os.close(handle)

    def _explained(self, error: OSError) -> UserError:
        if error.errno in _FULL:
            return UserError(
                f"There is no room left for '{self._target}' ({error.strerror}); what was there before is as it was. "
                "Free space, or give another data_root."
            )
        return UserError(f"'{self._target}' cannot be written ({error.strerror}); give another data_root.")
