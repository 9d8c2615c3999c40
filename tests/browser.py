"""Drives headless Chromium, for tests of pages."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """Headless Chromium with one tab, spoken to over DevTools' pipe.

    JSON messages, each ended by a zero byte.
    """

    def __init__(self, profile: Path):
        (theirs_in, self.commands), (self.replies, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads descriptor 3 and writes 4. The numbers are set in the new process, out of
        # reach of its start.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        rename = (
            "import os, sys; i, o, *command = sys.argv[1:]; "
            "os.dup2(int(i), 3); os.dup2(int(o), 4); os.execv(command[0], command)"
        )
        switches = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", rename, *map(str, theirs), CHROMIUM, *switches, "about:blank"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *theirs):
            os.close(end)
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "DOM"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters) -> dict:
        """Sends a command and returns its result; what else happens meanwhile goes to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        with os.fdopen(os.dup(self.commands), "wb") as pipe:
            pipe.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict:
        """The next message."""
        while b"\0" not in self.buffer:
            assert select.select([self.replies], [], [], 30)[0], "Chromium is silent"
            read = os.read(self.replies, 1 << 20)
            assert read, "Chromium has ended"
            self.buffer += read
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str):
        """The value of JavaScript in the page."""
        result = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Goes to a page and forgets what an earlier one said."""
        self.events.clear()
        self("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def until(self, condition: str) -> None:
        """Waits."""
        end = time.monotonic() + 20
        while not self.evaluate(condition):
            assert time.monotonic() < end, (
                f"{condition}: {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.02)

    def complaints(self) -> list[dict]:
        """Warnings and errors in the console."""
        self.evaluate("0")  # whatever came before it has been received
        return [
            event
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
            or (
                event["method"] == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning")
            )
            or (
                event["method"] == "Log.entryAdded"
                and event["params"]["entry"]["level"] in ("error", "warning")
            )
        ]

    def close(self) -> None:
        """Ends Chromium."""
        self.session = None
        self("Browser.close")
        self.process.wait(20)
        os.close(self.commands)
        os.close(self.replies)
