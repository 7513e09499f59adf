"""Which code lies here: the checkout's commit. Called by summary, for what a process runs, and by sweep, which mixes no
two."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# New files that decide what runs do: the package's, and experiments wherever they lie. (Folders of runs hold others.)
CODE = ("mow_jax", "*.py", ":!tests", ":!benchmarks", ":!docs", ":!results")


def commit() -> str:
    """The checkout's commit now; where files differ from it, or there are new ones among its code, with "+" and six
    digits of how, so that no two such states look alike. Outside a checkout what whoever copied the code says in
    MOW_JAX_COMMIT, else "unknown"."""
    told = os.environ.get("MOW_JAX_COMMIT", "unknown")
    try:
        if _git("ls-files", "--error-unmatch", "mow_jax/origin.py").returncode:
            return told
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("diff", "HEAD", "--binary", "--no-ext-diff").stdout
        new = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *CODE).stdout
    except OSError:
        return told
    if head.returncode:
        return told
    changed += b"".join(map(_content, filter(None, new.split(b"\0"))))
    return head.stdout.decode().strip() + (f"+{hashlib.sha256(changed).hexdigest()[:6]}" if changed else "")


def _content(name: bytes) -> bytes:
    """Name and digest of a file that git does not know; the name alone of what cannot be read as one."""
    try:
        return name + hashlib.sha256((ROOT / os.fsdecode(name)).read_bytes()).digest()
    except OSError:
        return name


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)
