"""`gitrel audit --html`, opened in a real browser: headless Chromium, spoken to over its DevTools pipe.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import program
from handmade import called, release_by_hand
from room import Room, room, run
from test_audit_command import Auditor

__all__ = ["room"]  # the fixture

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
_PATIENCE = 60  # seconds for one answer: a net, not a measure
_ARGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
_OUR_PIPES = 10  # the least number that ours have, out of the way of 3 and 4, which are the browser's


class Browser:
    """One tab. `complaints`: what its console was told, and exceptions."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer, self._last, self._events = b"", 0, list[dict[str, Any]]()
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == self._last)
        assert "error" not in answer, f"{method}: {answer}"
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while True:
            while b"\0" in self._buffer:
                raw, _, self._buffer = self._buffer.partition(b"\0")
                message: dict[str, Any] = json.loads(raw)
                if wanted(message):
                    return message
                self._events.append(message)
            assert select.select([self._read], [], [], max(0, deadline - time.monotonic()))[0], (
                "the browser says nothing"
            )
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece

    def open(self, path: Path, *, scheme: str = "light", width: int = 1200, scripts: bool = True) -> None:
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        loader = self.call("Page.navigate", url=path.as_uri())["loaderId"]

        def loaded(each: dict[str, Any]) -> bool:
            about = each.get("params", {})
            return each.get("method") == "Page.lifecycleEvent" and (about["loaderId"], about["name"]) == (
                loader,
                "load",
            )

        if not any(map(loaded, self._events)):
            self._until(loaded)

    def ask(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, text: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    @property
    def complaints(self) -> list[dict[str, Any]]:
        self.call("Runtime.evaluate", expression="0")  # whatever was said before this has arrived
        kinds = (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        return [each for each in self._events if each.get("method") in kinds]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    ours, theirs = os.pipe(), os.pipe()
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD, _OUR_PIPES) for fd in (ours[0], theirs[1]))
    for fd in (ours[0], theirs[1]):
        os.close(fd)
    script = f'exec "$@" 3<&{read} 4>&{write}'
    argv = ["bash", "-c", script, "browser", program("chromium"), *_ARGS, f"--user-data-dir={folder}"]
    running = subprocess.Popen(
        argv,
        env={**os.environ, "HOME": str(folder)},
        pass_fds=(read, write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read)
    os.close(write)
    try:
        yield Browser(theirs[0], ours[1])
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        os.close(theirs[0])
        os.close(ours[1])


@pytest.fixture
def auditor(room: Room) -> Auditor:
    """With a mirror of two releases, the second of which has a hostile message, and two versions of trust."""
    desk = called(room.desk(), "alice")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("trust", "add", "bob", f"{room.people['bob'].path}.pub", "--yes")
    desk.gitrel("release")
    desk.gitrel("config", "set", "SECRET=nobody-may-see-this")
    desk.gitrel("release", "-m", ATTACK)
    return Auditor(room, pin)


@pytest.fixture
def report(auditor: Auditor, tmp_path: Path) -> Path:
    """With a forged release, too, and a stray ref named like a script."""
    forged = release_by_hand(auditor.desk, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=1)
    auditor.desk.git("update-ref", "refs/releases/v3", forged)
    auditor.desk.git("update-ref", "refs/releases/<script>document.title='owned'</script>", forged)
    page = tmp_path / "report.html"
    auditor.audit("--html", str(page), code=10)
    return page


def test_the_page_in_a_browser(report: Path, auditor: Auditor, tmp_path: Path) -> None:
    first = report.read_bytes()
    auditor.audit("--html", str(report), code=10)
    assert report.read_bytes() == first, "the same audit gives the same page"
    assert b"nobody-may-see-this" not in first
    with browser(tmp_path / "profile") as tab:
        pictures = []
        for scheme in ("light", "dark"):
            tab.open(report, scheme=scheme)
            reads(tab)
            assert tab.ask(FAINT) == []
            pictures.append(tab.call("Page.captureScreenshot")["data"])
        assert pictures[0] != pictures[1]
        unfolds(tab)
        filters(tab)
        is_told_to_who_cannot_see(tab)
        assert tab.complaints == []
        shows_the_same_by_hand(tab, auditor)
        nothing_else_gets_in(tab)
        tab.open(report, width=360)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.ask(wide) == 0, "nothing sticks out on a phone"
        tab.open(report, scripts=False)
        reads(tab)
        assert "Verify by hand" in tab.ask("document.body.textContent")
        assert base64.b64decode(tab.call("Page.printToPDF")["data"]).startswith(b"%PDF-")


def reads(tab: Browser) -> None:
    """The hostile words are there, as words."""
    assert tab.ask("document.title") == "Audit of shop"
    text = tab.ask("document.body.innerText")
    assert "No. One thing is wrong with the release history of shop." in text
    assert ATTACK in text
    assert "<script>document.title='owned'</script>" in text
    assert tab.ask("document.images.length") == 0
    assert tab.complaints == []


# Text whose contrast with what is behind it is below 4.5:1 (WCAG 2.2, 1.4.3), by luminance as defined there
FAINT = """(() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(colour).map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (at) => {
    for (; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
  };
  const found = [];
  for (const each of document.body.querySelectorAll("*")) {
    const own = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !each.checkVisibility() || each.closest("script, svg")) continue;
    const both = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
    if ((both[0] + 0.05) / (both[1] + 0.05) < 4.5) found.push(`${each.localName}.${each.className}`);
  }
  return found;
})()"""


def unfolds(tab: Browser) -> None:
    """By keyboard, and where a link leads into something folded."""
    is_open = "document.getElementById('releases/v2').open"
    assert tab.ask(is_open) is False
    tab.ask("document.querySelector('[id=\"releases/v2\"] > summary').focus()")
    tab.press("Enter", "\r")
    assert tab.ask(is_open) is True
    tab.ask("""new Promise((done) => {
      document.getElementById("releases/v1").addEventListener("toggle", done);
      document.querySelector('a[href="#releases/v1"]').click();
    }).then(() => true)""")
    assert tab.ask("document.getElementById('releases/v1').open") is True
    tab.ask("document.activeElement.blur(); document.body.focus(); scrollTo(0, 0)")
    tab.press("Tab", "")
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is seen"


def filters(tab: Browser) -> None:
    shown = "document.querySelectorAll('.releases > li:not(.hidden)').length"
    assert tab.ask(shown) == 3
    tab.ask("""new Promise((done) => {
      new MutationObserver(done).observe(document.querySelector("output"), {childList: true});
      const field = document.querySelector("input");
      field.value = "refused";
      field.dispatchEvent(new Event("input"));
    }).then(() => true)""")
    assert tab.ask(shown) == 1
    assert tab.ask("document.querySelector('output').textContent") == "1 of 3"


def is_told_to_who_cannot_see(tab: Browser) -> None:
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {each["role"]["value"] for each in nodes if not each["ignored"]}
    wanted = {"banner", "navigation", "main", "contentinfo", "region", "heading", "table", "caption", "columnheader"}
    assert wanted | {"rowheader", "cell", "list", "listitem", "link", "search"} <= roles
    names = {each["name"]["value"] for each in nodes if each["role"]["value"] == "columnheader"}
    assert {"Finding", "Where", "Who", "What it means", "What to do"} <= names


def shows_the_same_by_hand(tab: Browser, auditor: Auditor) -> None:
    """The commands on the page, typed in a mirror: they print what the page says, and a forged release fails."""
    for record, holds in (("trust/v2", True), ("releases/v2", True), ("releases/v3", False)):
        text = tab.ask(f"document.querySelector('[id=\"{record}\"] pre code').textContent")
        verified, printed = [], {}
        for line in text.splitlines():
            done = run(["sh", "-c", line], auditor.path, auditor.desk.env)
            command, _, comment = line.partition("  # ")
            printed[comment] = done.out.split()
            if "verify-commit" in command:
                verified.append(done.code == 0)
            else:
                assert done.code == 0, f"{line}: {done.err}"
        assert verified == [holds], record
        told = [comment for comment in printed if re.fullmatch("[0-9a-f]{40,64}", comment)]
        assert len(told) == 2
        assert [printed[comment][0] for comment in told] == told
        if "the same id twice" in printed:
            assert len(set(printed["the same id twice"])) == 1


def nothing_else_gets_in(tab: Browser) -> None:
    """The policy refuses what a page could be talked into: each is reported to the page as a violation."""
    refused = tab.ask("""new Promise((done) => {
      const seen = new Set();
      document.addEventListener("securitypolicyviolation", (event) => {
        seen.add(event.effectiveDirective);
        if (seen.size === 4) done([...seen].sort());
      });
      const make = (name, set) => document.body.append(Object.assign(document.createElement(name), set));
      make("img", {src: "http://127.0.0.1:9/x.png"});
      make("style", {textContent: "body { display: none }"});
      fetch("http://127.0.0.1:9/").catch(() => 0);
      try { document.body.innerHTML = "<b onclick=alert(1)>"; } catch { }
    })""")
    assert refused == ["connect-src", "img-src", "require-trusted-types-for", "style-src-elem"]
    assert tab.ask("getComputedStyle(document.body).display") == "block"
