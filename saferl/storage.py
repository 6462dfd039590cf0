"""Files that are either whole or absent: atomic writes, hashes, and folders that never clobber work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saferl.errors import RunFolderError

TEMPORARY = ".saferl-tmp"
"""How the names of unfinished files and folders end, so that what a killed process left can be told from work."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HEADER_HASH = "header_sha256"
"""Key of :func:`header_digest` in a header."""


def header_digest(header: Mapping[str, Any]) -> str:
    """Hex sha256 of a header's content (canonical JSON, without the digest itself)."""
    content = {key: value for key, value in header.items() if key != HEADER_HASH}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_header(path: Path, header: Mapping[str, Any]) -> None:
    """:func:`write_json` with the digest of the content, so that an edited header is noticed."""
    write_json(path, {**header, HEADER_HASH: header_digest(header)})


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically (a temporary file in the same folder, synced, then renamed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
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
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=TEMPORARY))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        _sync(temporary)
        old = None
        if target.exists():
            old = target.with_name(f".{target.name}.old-{os.getpid()}{TEMPORARY}")
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


def remove_folder(folder: Path) -> None:
    """Remove ``folder`` so that nobody ever sees half of it."""
    hidden = folder.with_name(f".{folder.name}.old-{os.getpid()}{TEMPORARY}")
    os.replace(folder, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted atomic write left in ``folder``; call it only while nobody else writes there."""
    for path in _leftovers(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f".*{TEMPORARY}"))


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone; the hold ends with the process, however it ends.

    Raises:
        RunFolderError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunFolderError(
            f"Only one process may write to {folder}; another one is doing so. Wait until it ends, or stop it."
        ) from error
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Bring every file below ``folder`` to the disk, so that a rename never arrives before the content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def prepare_output(folder: Path, *, what: str) -> Path:
    """Make ``folder``; one that already holds files, or cannot be written, is an error and stays as it was.

    What a process that was killed before it finished any file left there does not count, and is removed.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        if folder.is_file():
            raise RunFolderError(
                f"The output folder of {what} must be a folder; got the file {folder}. Choose another --out."
            )
        if folder.is_dir() and set(folder.iterdir()) - set(_leftovers(folder)):
            raise RunFolderError(
                f"The output folder of {what} must be new or empty; {folder} holds files, which were left alone. "
                "Choose another --out, or move that folder away."
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable{TEMPORARY}"
        probe.touch()
        probe.unlink()
        remove_leftovers(folder)
    except OSError as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise RunFolderError(
            f"The output folder of {what} cannot be written: {folder} ({error.strerror}). Choose another --out."
        ) from error
    return folder
