"""Headless Chromium driven over a pipe by its own protocol: what a page's test needs and nothing more."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from system import CHROMIUM, needs_chromium

# No sandbox for root, and nothing asked of the network but the page.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")

# The protocol wants descriptors 3 and 4. A process of its own places them, as one with jax in it must not be forked.
PLACE = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page. Use as a context manager."""

    def __init__(self, profile: Path, url: str, width: int = 1000, height: int = 800):
        """Opens `url`; `profile` is an empty folder. Skips the test where there is no Chromium."""
        needs_chromium()
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        place = [sys.executable, "-c", PLACE, str(theirs_in), str(theirs_out)]
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        quiet, both = subprocess.DEVNULL, (theirs_in, theirs_out)
        self._process = subprocess.Popen([*place, *command], stdout=quiet, stderr=quiet, pass_fds=both)
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._numbers, self._session = b"", itertools.count(1), None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.navigate", url=url)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise awaited."""
        made = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Until a JavaScript expression holds, in a page that is there: one half loaded may have no body yet."""
        deadline = time.monotonic() + seconds
        while not self.ask(f"document.readyState === 'complete' && ({script})"):
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key down and up, by its name in KeyboardEvent.key."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Writes a PNG of what is seen, or of the whole page."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def look(self, scheme: str, width: int, height: int = 800) -> None:
        """As a system in "light" or "dark" colours on a screen so wide."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:  # events come between; nobody waits for them here
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._in], [], [], 60)[0], "Chromium says nothing"
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)
