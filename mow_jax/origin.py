"""Which code runs: the checkout's commit. Called by whoever writes it down, and by sweep, which mixes no two."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path


def commit() -> str:
    """The checkout's commit, with "+" if files differ from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    git = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, check=False)
    try:
        if git(["git", "ls-files", "--error-unmatch", "mow_jax/origin.py"]).returncode:
            return "unknown"
        head = git(["git", "rev-parse", "--short=12", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed else "") if head.returncode == 0 else "unknown"
