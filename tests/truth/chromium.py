"""A page in headless Chromium, driven through its remote debugging protocol, without a package."""

import base64
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TIMEOUT = 30.0


def program() -> str | None:
    """Return the path of Chromium or Chrome, None if it is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


class Chromium:
    """Headless Chromium with a new profile, which is empty."""

    def __init__(self, folder: Path) -> None:
        path = program()
        assert path is not None
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--no-first-run", "--disable-background-networking")  # fmt: skip
        self._process = subprocess.Popen(
            [path, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = folder / "DevToolsActivePort"
        wait(lambda: port_file.is_file() and port_file.read_text().strip())
        port, path = port_file.read_text().split()
        self._address = f"ws://127.0.0.1:{port}"
        self._sockets = [_Socket(self._address + path)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for connection in self._sockets:
            connection.close()
        self._process.terminate()
        self._process.wait(timeout=_TIMEOUT)

    def page(self, url: str, width: int = 1400, height: int = 1000) -> "Page":
        """Open a page in a new window."""
        target = self._sockets[0].call("Target.createTarget", url="about:blank")["targetId"]
        self._sockets.append(_Socket(f"{self._address}/devtools/page/{target}"))
        page = Page(self._sockets[-1])
        page.resize(width, height)
        page.open(url)
        return page


class Page:
    """A page: what it shows, and what a user does to it."""

    def __init__(self, connection: "_Socket") -> None:
        self._socket = connection
        self._socket.call("Page.enable")
        self._socket.call("Runtime.enable")

    def open(self, url: str) -> None:
        self._socket.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        self._socket.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        found = self._socket.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        wait(
            lambda: self.run(
                f"(() => {{ try {{ return !!({script}); }} catch {{ return false; }} }})()"
            )
        )

    def text(self, element: str) -> str:
        return str(self.run(f"document.getElementById({json.dumps(element)}).textContent"))

    def set(self, element: str, value: str, event: str = "change") -> None:
        """Give a value to an input, as a user does."""
        self.run(
            f"(() => {{ const e = document.getElementById({json.dumps(element)}); "
            f"e.value = {json.dumps(value)}; "
            f"e.dispatchEvent(new Event({json.dumps(event)}, {{bubbles: true}})); }})()"
        )

    def mouse(self, element: str, x: float, y: float, *kinds: str) -> None:
        """Move the mouse to a place in an element (0 to 1), press and release it."""
        box = self.run(
            "(() => { const b = document.querySelector(" + json.dumps(element) + ")"
            ".getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        for kind in kinds or ("Moved",):
            button = {"button": "left", "clickCount": 1, "buttons": 1} if kind != "Moved" else {}
            self._socket.call("Input.dispatchMouseEvent", type=f"mouse{kind}", **place, **button)

    def drag(self, element: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse(element, *start, "Moved", "Pressed")
        self.mouse(element, *end, "Moved")
        self.mouse(element, *end, "Released")

    def wheel(self, x: float, y: float, lines: float) -> None:
        self._socket.call(
            "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=lines
        )

    def picture(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        found = self._socket.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def picture_of_all(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self._socket.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(found["data"]))


def wait(condition: Callable[[], Any], seconds: float = _TIMEOUT) -> Any:
    """Return the first true value of a condition.

    Raises
    ------
    TimeoutError
        If there is none in this time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError("the browser did not come to this state")


class _Socket:
    """Client of a websocket: texts of any length, unmasked answers (RFC 6455)."""

    def __init__(self, url: str) -> None:
        host, _, path = url.removeprefix("ws://").partition("/")
        name, _, port = host.partition(":")
        self._connection = socket.create_connection((name, int(port)), timeout=_TIMEOUT)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._connection.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._connection.makefile("rb")
        assert b" 101 " in self._file.readline()
        while self._file.readline().strip():
            pass
        self._last = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events are not kept."""
        self._last += 1
        self._send(json.dumps({"id": self._last, "method": method, "params": parameters}).encode())
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def _send(self, text: bytes) -> None:
        size, key = len(text), os.urandom(4)
        length = (
            struct.pack(">B", 0x80 | size) if size < 126
            else struct.pack(">BH", 0x80 | 126, size) if size < 1 << 16
            else struct.pack(">BQ", 0x80 | 127, size)
        )  # fmt: skip
        masked = bytes(a ^ key[i % 4] for i, a in enumerate(text))
        self._connection.sendall(b"\x81" + length + key + masked)

    def _receive(self) -> bytes:
        parts = []
        while True:
            first, second = self._file.read(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8))
            part = self._file.read(size)
            if first & 0x0F <= 2:  # text, or its continuation
                parts.append(part)
            if first & 0x80 and parts:
                return b"".join(parts)
