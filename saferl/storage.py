"""Files that are either whole or absent: atomic writes, hashes, and folders that never clobber work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saferl.errors import RunFolderError


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically (a temporary file in the same folder, synced, then renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path, *, what: str) -> Any:
    """Read JSON; ``what`` names the file in the error, for example ``"run.json of a run folder"``."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{what} is missing: {path}. The folder is incomplete or not one of saferl's.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{what} is not valid JSON: {path} ({error}). It was cut off or edited.") from error
    except OSError as error:
        raise RunFolderError(f"{what} cannot be read: {path} ({error.strerror}).") from error


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well, and vanishes when it does not.

    A ``target`` that exists is replaced only after the new folder is complete; a file or a link is an error.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RunFolderError(f"{target} must be a folder, or absent; got a file or a link, which was left alone.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        old = None
        if target.exists():
            old = target.with_name(f".{target.name}.old-{os.getpid()}")
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old is not None:
                os.replace(old, target)
            raise
        if old is not None:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def prepare_output(folder: Path, *, what: str) -> Path:
    """Make ``folder``; one that already holds files, or cannot be written, is an error and stays as it was."""
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        if folder.is_file():
            raise RunFolderError(
                f"The output folder of {what} must be a folder; got the file {folder}. Choose another --out."
            )
        if folder.is_dir() and any(folder.iterdir()):
            raise RunFolderError(
                f"The output folder of {what} must be new or empty; {folder} holds files, which were left alone. "
                "Choose another --out, or move that folder away."
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise RunFolderError(
            f"The output folder of {what} cannot be written: {folder} ({error.strerror}). Choose another --out."
        ) from error
    return folder
