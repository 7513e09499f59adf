"""Which code runs: the checkout's commit. Called by whoever writes it down, and by sweep, which mixes no two."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path


def commit() -> str:
    """The checkout's commit; where files differ from it with "+" and six digits of how, so that no two such states look
    alike; "unknown" outside a checkout."""
    try:
        if _git("ls-files", "--error-unmatch", "mow_jax/origin.py").returncode:
            return "unknown"
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("diff", "HEAD", "--binary", "--no-ext-diff").stdout
    except OSError:
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.decode().strip() + (f"+{hashlib.sha256(changed).hexdigest()[:6]}" if changed else "")


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    root = Path(__file__).resolve().parent.parent
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
