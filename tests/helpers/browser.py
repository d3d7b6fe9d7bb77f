"""A headless Chromium for tests, driven through chromedriver by the WebDriver protocol.

The protocol is JSON over HTTP (W3C WebDriver), so a dozen commands need no client library. Run as a
script it says whether the browser is there.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PACKAGES = "chromium chromium-driver"
DRIVERS = ("chromedriver",)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
    "--window-size=1280,900",
]
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " "}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
START_SECONDS = 60


def problem() -> str:
    """Says which program is missing, and how to get it; empty if the browser can be used."""
    missing = [names[0] for names in (BROWSERS, DRIVERS) if _find(names) is None]
    if not missing:
        return ""
    return f"no {' and no '.join(missing)}: apt-get install {PACKAGES}"


class Browser:
    """One window; closed at the end of a `with` block."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        port_file = Path(self._profile.name) / "driver.log"
        with port_file.open("w") as log:
            self._driver = subprocess.Popen([_find(DRIVERS), "--port=0"], stdout=log)
        try:
            self._root = f"http://127.0.0.1:{self._port(port_file)}"
            options = {
                "binary": _find(BROWSERS),
                "args": [*FLAGS, f"--user-data-dir={self._profile.name}/profile"],
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._root += f"/session/{session['sessionId']}"
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._end()

    def open(self, url: str) -> None:
        """Loads a page and waits until it is complete; logs of earlier pages are dropped."""
        self.log("browser")
        self.log("performance")
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs the body of a JavaScript function in the page and returns what it returns."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Clicks an element as a user does: it has to be visible and not covered."""
        found = self._send("POST", "/element", {"using": "css selector", "value": selector})
        self._send("POST", f"/element/{found[ELEMENT]}/click", {})

    def press(self, *names: str) -> None:
        """Presses keys one after the other; names are those of `KEYS`."""
        keys = [
            {"type": kind, "value": KEYS[name]} for name in names for kind in ("keyDown", "keyUp")
        ]
        source = {"type": "key", "id": "keyboard", "actions": keys}
        self._send("POST", "/actions", {"actions": [source]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Returns the entries of the log `browser` (console) or `performance` since the last."""
        return self._send("POST", "/se/log", {"type": kind})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Sends a command of the Chrome DevTools protocol."""
        body = {"cmd": command, "params": parameters}
        return self._send("POST", "/goog/cdp/execute", body)

    def resize(self, width: int) -> None:
        """Makes the page's window that wide, in CSS pixels."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)

    def media(self, kind: str = "", **features: str) -> None:
        """Shows the page as on the medium `print`, or with features such as a colour scheme."""
        pairs = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.devtools("Emulation.setEmulatedMedia", media=kind, features=pairs)

    def print(self) -> bytes:
        """Prints the page to a PDF document."""
        return base64.b64decode(self._send("POST", "/print", {}))

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _port(self, log: Path) -> int:
        """Waits until the driver has said on which port it listens."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._driver.poll() is None:
            _, said, rest = log.read_text().partition("started successfully on port ")
            if said and "." in rest:
                return int(rest.split(".")[0])
            time.sleep(0.02)
        raise RuntimeError(f"chromedriver did not start: {log.read_text()}")

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait()
        self._profile.cleanup()


def _find(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


if __name__ == "__main__":
    print(problem() or "browser: ready")
