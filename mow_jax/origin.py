"""Which code runs: the checkout's commit. Called by whoever writes it down, and by sweep, which mixes no two."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path


def commit() -> str:
    """The checkout's commit; where files differ from it with "+" and six digits of how, so that no two such states look
    alike. Outside a checkout what whoever copied the code says in MOW_JAX_COMMIT, else "unknown"."""
    told = os.environ.get("MOW_JAX_COMMIT", "unknown")
    try:
        if _git("ls-files", "--error-unmatch", "mow_jax/origin.py").returncode:
            return told
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("diff", "HEAD", "--binary", "--no-ext-diff").stdout
    except OSError:
        return told
    if head.returncode:
        return told
    return head.stdout.decode().strip() + (f"+{hashlib.sha256(changed).hexdigest()[:6]}" if changed else "")


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
