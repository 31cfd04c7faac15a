"""Chromium without a window, for tests of pages: its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE = 60.0  # seconds; the machine may be busy


class BrowserError(RuntimeError):
    """The browser does not start or answer, or an expression throws."""


class Browser:
    """One page of a Chromium of its own; a context manager.

    Attributes:
        errors: what scripts threw and what the console or the security policy complained about.
    """

    def __init__(self, profile: Path):
        assert CHROMIUM is not None
        to_read, self._send = os.pipe()
        self._receive, to_write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        arguments = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        copies = [(null, 0), (null, 1), (null, 2), (to_read, 3), (to_write, 4)]
        spares = [
            os.dup(fd) for fd, _ in copies
        ]  # none of them is 0..4, which would be overwritten
        while any(fd < 5 for fd in spares):
            spares = [os.dup(fd) for fd in spares]
        self._process = os.posix_spawn(
            CHROMIUM, arguments, os.environ, setpgroup=0,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, spare, fd)
                for spare, (_, fd) in zip(spares, copies, strict=True)
            ],
        )  # fmt: skip
        for fd in {*spares, null, to_read, to_write}:
            os.close(fd)
        self._rest = b""
        self._count = 0
        self._session: str | None = None
        self.errors: list[str] = []

    def __enter__(self) -> Browser:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and its children."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._send)
        os.close(self._receive)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of a method of the DevTools protocol."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(end)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, page: Path, size_wh: tuple[int, int] = (1000, 800), **media: str) -> None:
        """Show a file, with media features such as ``prefers_color_scheme="dark"``."""
        self.errors.clear()
        width, height = size_wh
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": n.replace("_", "-"), "value": v} for n, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri())
        self.until("location.protocol === 'file:' && document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until it is true."""
        end = time.monotonic() + _PATIENCE
        while not self.run(expression):
            if time.monotonic() > end:
                raise BrowserError(f"never true: {expression}")
            time.sleep(0.01)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **text
            )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """``mousePressed``, ``mouseMoved``, ``mouseReleased`` or ``mouseWheel`` at a place."""
        if kind in ("mousePressed", "mouseReleased") or more.get("buttons"):
            more = {"button": "left", "clickCount": 1, **more}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._receive, 1 << 16) if ready else b""
            if not data:
                raise BrowserError("Chromium does not answer")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(details["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.errors.append(details["entry"]["text"])
