"""Files that appear whole or not at all, whatever ends their writer, for all that others may be reading; space for
those that grow, certainty that they are on the disk, and how many may be open, used by replay, checkpoint and summary;
folders named by numbers, as checkpoints are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def reserve(descriptor: int, size: int, keep: int = 0) -> None:
    """Gives an open file `size` bytes: its first `keep` ones, zeros behind. Raises OSError where they have no room.

    Not by os.posix_fallocate, which writes into every block where the file system cannot reserve (NFS before 4.2): all
    of it would go over the network. There free space is looked at instead, and nothing is held.
    """
    os.ftruncate(descriptor, keep)
    while _LIBC.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        code = ctypes.get_errno()
        if code == errno.EOPNOTSUPP:
            system = os.fstatvfs(descriptor)
            if system.f_bavail * system.f_frsize >= size - keep:
                os.ftruncate(descriptor, size)
                return
            code = errno.ENOSPC
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def fsync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def numbered(folder: Path) -> list[int]:
    """The numbers that name folders in it, ascending; none where it is not there. Raises OSError where it cannot be
    read now, which says nothing of what it holds."""
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def allow_open() -> None:
    """Lets this process open as many files as the system allows, by the hard limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def most_open() -> float:
    """How many that are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if most == resource.RLIM_INFINITY else most


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name of this block's own beside `path`, with its suffix, to write to: what lies there when the block ends takes
    the place of `path`; after an error it is gone. An OSError names `path`."""
    # Not by the process's number, which another machine's may have, too.
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = os.fspath(path)
        raise
