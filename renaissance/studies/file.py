"""Finds the study file: by its own name, or in an archive of a study."""

from __future__ import annotations

import zipfile
from pathlib import Path

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.untrusted import read_bytes, refuse_special
from renaissance.settings.presets import CONFIG_FILES

ARCHIVE = ".zip"
VERSIONS = "versions.json"  # in an archive, beside its study file
_MOST_BYTES = 256 << 10


def study_file(path: str) -> tuple[str, bytes]:
    """The name and content of a study file, or of the one in an archive.

    Raises:
        UserError: there is none, or it is too large.
    """
    if Path(path).suffix.lower() != ARCHIVE:
        return Path(path).name, read_bytes(path, f"study={path}", most=_MOST_BYTES)
    refuse_special(path, f"study={path}")
    try:
        with zipfile.ZipFile(path) as found:
            files = (each for each in found.infolist() if "/" not in each.filename)
            names = [
                each
                for each in files
                if Path(each.filename).suffix.lower() in CONFIG_FILES and each.filename != VERSIONS
            ]
            require(
                len(names) == 1, f"study={path} is no archive of a study: it holds {len(names)} study files, not one."
            )
            require(names[0].file_size <= _MOST_BYTES, f"study={path}: its study file is too large.")
            return names[0].filename, found.read(names[0])
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"study={path} cannot be read ({first_line(error)}); give a study file or an archive of one."
        ) from error
