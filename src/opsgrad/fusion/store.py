"""Object code kept on disk between processes.

What lies here is run, so only what this user wrote counts: the directory and its files must belong
to the user and be writable by nobody else. Files appear whole, under their final names, so any
number of processes may read and write at once. Whatever is wrong with a file or with the disk, the
store merely holds less.
"""

import contextlib
import hashlib
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "OPSGRAD_CACHE_DIR"
SUFFIX = ".opsgrad-kernel"
LIMIT = 64 * 2**20
"""How many bytes the files may have together before the oldest go."""
HEADER = struct.Struct("<16s32sQ32s")
"""What a file begins with: the magic words, the key, the length and the digest of the rest."""
MAGIC = b"opsgrad kernel 1"


class Store:
    """Bytes by their keys of 32 bytes, in files of one directory; None stands for no disk."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory if directory is not None and _usable(directory) else None

    def read(self, key: bytes) -> bytes | None:
        """Return what was written under a key, or None where nothing sound is there."""
        if self._directory is None:
            return None
        try:
            with (self._directory / _name(key)).open("rb") as file:
                trusted = _private(os.fstat(file.fileno()))
                return _payload(file.read(), key) if trusted else None
        except OSError:
            return None

    def write(self, key: bytes, payload: bytes) -> None:
        """Keep bytes under a key, if the disk takes them."""
        if self._directory is not None:
            with contextlib.suppress(OSError):
                self._put(self._directory, key, payload)
                _drop_oldest(self._directory)

    def _put(self, directory: Path, key: bytes, payload: bytes) -> None:
        handle, temporary = tempfile.mkstemp(SUFFIX, "unfinished-", directory)
        try:
            with os.fdopen(handle, "wb") as file:
                digest = hashlib.sha256(payload).digest()
                file.write(HEADER.pack(MAGIC, key, len(payload), digest) + payload)
            Path(temporary).replace(directory / _name(key))
        except BaseException:
            Path(temporary).unlink()
            raise


def chosen_directory() -> Path | None:
    """Return the directory that the environment names, else the user's cache; None for none."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).absolute() if named else None
    try:
        import platformdirs
    except ImportError:
        return None
    return platformdirs.user_cache_path("opsgrad", appauthor=False)


def _name(key: bytes) -> str:
    return key.hex() + SUFFIX


def _payload(content: bytes, key: bytes) -> bytes | None:
    """Return what follows the header of a file's content, if all of it is as it was written."""
    payload = content[HEADER.size :]
    header = HEADER.pack(MAGIC, key, len(payload), hashlib.sha256(payload).digest())
    return payload if content[: HEADER.size] == header else None


def _usable(directory: Path) -> bool:
    """Return whether a directory, made if missing, is there and private; warn if it is not."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = _private(directory.stat())
    except OSError:
        return False
    if not private:
        warnings.warn(
            f"opsgrad keeps no compiled kernels in {directory}, which others own or may write to:"
            f" make it writable by yourself alone, or name another directory in {VARIABLE}",
            RuntimeWarning,
            stacklevel=2,
        )
    return private


def _private(status: os.stat_result) -> bool:
    """Return whether this user owns a file, and nobody else may write to it."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are private by themselves
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _drop_oldest(directory: Path) -> None:
    """Remove files, the oldest first, until the rest is within the limit."""
    found = sorted(_files(directory))
    excess = sum(size for _, size, _ in found) - LIMIT
    for _, size, path in found:
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= size


def _files(directory: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the time, the size and the path of every file of ours."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):  # another process was quicker
                    status = entry.stat()
                    yield status.st_mtime_ns, status.st_size, entry.path
