"""Files that appear whole or not at all, whatever ends their writer. Used where others may be reading them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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
