"""`gitrel.toml`: what it means, and that everything else is refused with the key's path."""

from __future__ import annotations

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.health import Health
from gitrel.format.manifest import (
    MAX_MANIFEST,
    MAX_VALUE,
    BuildSpec,
    Manifest,
    RunSpec,
    duration,
    parse_manifest,
)
from gitrel.ids import App

FULL = b"""\
app = "shop"
[build]
command = "make"
output = "./dist//web/"
exclude = ["tests", "docs/."]
pass_env = ["PIP_INDEX_URL"]
timeout = "1h30m"
allow_links = ["/usr/bin/python3*"]
[run.web]
health = { path = "/healthz", timeout = "60s" }
settle = 0.5
listen = "[::1]:8000"
scale = 2
stop_timeout = "500ms"
[run.web.env]
PYTHONPATH = "vendor"
EMPTY = ""
[run.worker]
health = { port = true }
user = "shop"
[run.clock]
health = { notify = true }
[run.release]
timeout = "5m"
"""


def test_every_key() -> None:
    assert parse_manifest(FULL) == Manifest(
        app=App("shop"),
        build=BuildSpec(
            command="make",
            output="dist/web",
            exclude=("tests", "docs"),
            pass_env=("PIP_INDEX_URL",),
            timeout=5400.0,
            allow_links=("/usr/bin/python3*",),
        ),
        run={
            "web": RunSpec(
                health=Health(path="/healthz", timeout=60.0),
                settle=0.5,
                listen=("::1", 8000),
                scale=2,
                stop_timeout=0.5,
                env={"PYTHONPATH": "vendor", "EMPTY": ""},
            ),
            "worker": RunSpec(health=Health(port=True), user="shop"),
            "clock": RunSpec(health=Health(notify=True)),
            "release": RunSpec(timeout=300.0),
        },
    )


def test_the_least() -> None:
    assert parse_manifest(b'app = "a"\n') == Manifest(app=App("a"))
    assert parse_manifest(b'app = "a"\n[build]\n[run]\n[run.web]\n') == Manifest(app=App("a"), run={"web": RunSpec()})


# What the message must name: the path of the key, or the line.
REFUSED: dict[str, tuple[bytes, str]] = {
    "no app": (b"", "app: missing"),
    "app is a number": (b"app = 1", "app: "),
    "app in upper case": (b'app = "Shop"', "app: "),
    "unknown key": (b'app = "a"\nap = 1', "ap: unknown key; did you mean 'app'?"),
    "unknown key, like none": (b'app = "a"\nzzzz = 1', "zzzz: unknown key"),
    "unknown key below": (
        b'app = "a"\n[build]\ncomand = "x"',
        "build.comand: unknown key; did you mean 'command'?",
    ),
    "unknown key of a process": (
        b'app = "a"\n[run.web]\nscal = 1',
        "run.web.scal: unknown key; did you mean 'scale'?",
    ),
    "unknown key of health": (
        b'app = "a"\nrun.web.health = {path = "/", x = 1}',
        "run.web.health.x: unknown key",
    ),
    "build is text": (b'app = "a"\nbuild = "make"', "build: expected a table"),
    "a process is a number": (b'app = "a"\nrun.web = 1', "run.web: expected a table"),
    "process named with a space": (b'app = "a"\n[run."a b"]', "run.a b: not a name"),
    "empty command": (b'app = "a"\nbuild.command = " "', "build.command: "),
    "command with NUL": (b'app = "a"\nbuild.command = "a\\u0000"', "build.command: "),
    "output outside": (b'app = "a"\nbuild.output = "../x"', "build.output: "),
    "output outside, inside": (b'app = "a"\nbuild.output = "a/../../x"', "build.output: "),
    "output absolute": (b'app = "a"\nbuild.output = "/x"', "build.output: "),
    "exclude is text": (b'app = "a"\nbuild.exclude = "x"', "build.exclude: expected a list"),
    "exclude outside": (b'app = "a"\nbuild.exclude = ["ok", ".."]', "build.exclude: "),
    "pass_env with =": (b'app = "a"\nbuild.pass_env = ["A=B"]', "build.pass_env: "),
    "time without unit": (b'app = "a"\nbuild.timeout = "30"', "build.timeout: "),
    "time is negative": (b'app = "a"\nbuild.timeout = -1', "build.timeout: "),
    "time is true": (b'app = "a"\nbuild.timeout = true', "build.timeout: "),
    "time is nan": (b'app = "a"\nbuild.timeout = nan', "build.timeout: "),
    "time is infinite": (b'app = "a"\nbuild.timeout = inf', "build.timeout: "),
    "time out of order": (b'app = "a"\nbuild.timeout = "1s1h"', "build.timeout: "),
    "time in other digits": ('app = "a"\nbuild.timeout = "٣s"'.encode(), "build.timeout: "),
    "scale is negative": (b'app = "a"\nrun.web.scale = -1', "run.web.scale: "),
    "scale is true": (b'app = "a"\nrun.web.scale = true', "run.web.scale: "),
    "scale is 1.0": (b'app = "a"\nrun.web.scale = 1.0', "run.web.scale: "),
    "health of nothing": (b'app = "a"\nrun.web.health = {}', "run.web.health"),
    "health without port": (b'app = "a"\nrun.web.health = {port = false}', "run.web.health"),
    "health path relative": (b'app = "a"\nrun.web.health = {path = "x"}', "run.web.health.path: "),
    "health path splits a request": (
        b'app = "a"\nrun.web.health = {path = "/\\r\\nX: y"}',
        "run.web.health.path: ",
    ),
    "listen without a port": (b'app = "a"\nrun.web.listen = "localhost"', "run.web.listen: "),
    "listen on port 65536": (b'app = "a"\nrun.web.listen = "localhost:65536"', "run.web.listen: "),
    "listen in other digits": ('app = "a"\nrun.web.listen = "localhost:٨٠"'.encode(), "run.web.listen: "),
    "listen on port 0": (b'app = "a"\nrun.web.listen = "127.0.0.1:0"', "run.web.listen: "),
    "listen on a name": (b'app = "a"\nrun.web.listen = "example.org:80"', "run.web.listen: "),
    "listen on half an address": (b'app = "a"\nrun.web.listen = "127.0.1:80"', "run.web.listen: "),
    "listen on IPv6 without brackets": (b'app = "a"\nrun.web.listen = "::1:80"', "run.web.listen: "),
    "listen on IPv4 in brackets": (b'app = "a"\nrun.web.listen = "[127.0.0.1]:80"', "run.web.listen: "),
    "health asked and said": (b'app = "a"\nrun.web.health = {notify = true, port = true}', "run.web.health.notify: "),
    "user with a colon": (b'app = "a"\nrun.web.user = "a:b"', "run.web.user: "),
    "user by number": (b'app = "a"\nrun.web.user = 0', "run.web.user: "),
    "timeout of what stays up": (b'app = "a"\nrun.web.timeout = "5m"', "run.web.timeout: unknown key"),
    "V02 variable with =": (b'app = "a"\n[run.web.env]\n"A=B" = "x"', "not a variable's name"),
    "V03 variable without a name": (b'app = "a"\n[run.web.env]\n"" = "x"', ""),
    "V04 variable with a space": (b'app = "a"\n[run.web.env]\n"A B" = "x"', "not a variable's name"),
    "V05 value with NUL": (b'app = "a"\n[run.web.env]\nA = "\\u0000"', ""),
    "V06 value too long": (b'app = "a"\n[run.web.env]\nA = "%s"' % (b"x" * (MAX_VALUE + 1)), ""),
    "value is a number": (b'app = "a"\n[run.web.env]\nA = 1', "expected text"),
    "not UTF-8": (b'app = "\xff"', "not UTF-8"),
    "not TOML": (b"app = ", "not TOML"),
    "a key twice": (b'app = "a"\napp = "b"', "not TOML"),
    "BOM": (b'\xef\xbb\xbfapp = "a"', "not TOML"),
    "nested too deeply": (b"app = " + b"[" * 100_000, "not TOML"),
    "more digits than Python converts": (b"app = " + b"1" * 5000, ""),
    "a year that is none": (b"app = 0000-00-00", "not TOML"),
    "too large": (b"#" * (MAX_MANIFEST + 1), "too large"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_its_place(row: str) -> None:
    raw, said = REFUSED[row]
    with pytest.raises(FormatError) as caught:
        parse_manifest(raw, "gitrel.toml")
    assert said in str(caught.value)
    assert caught.value.where == "gitrel.toml"


@given(raw=st.binary(max_size=200))
def test_arbitrary_bytes(raw: bytes) -> None:
    """Nothing but a FormatError comes out, and the least that a manifest has is an app."""
    try:
        manifest = parse_manifest(raw)
    except FormatError:
        return
    assert manifest.app


SHAPES = [
    "app",
    "build",
    "run",
    "web",
    "env",
    "health",
    "command",
    "output",
    "exclude",
    "timeout",
    "path",
    "port",
    "scale",
    "listen",
]
values = st.recursive(
    st.none()
    | st.sampled_from(["a", "/", "../x", "30m", "localhost:1", ""])
    | st.text(max_size=8)
    | st.integers(-5, 10**12)
    | st.floats()
    | st.booleans()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SHAPES), inner, max_size=4),
    max_leaves=12,
)


def without_none(value: object) -> object:
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_none(each) for each in value if each is not None]
    return value


@given(table=st.dictionaries(st.sampled_from(SHAPES[:3]), values, max_size=3))
def test_any_toml(table: dict[str, object]) -> None:
    """Whatever stands under whichever key, the parser says what is wrong with it or knows what it means."""
    kept = without_none(table)
    assert isinstance(kept, dict)
    raw = tomli_w.dumps(kept).encode()
    try:
        manifest = parse_manifest(raw)
    except FormatError as error:
        assert error.where == "gitrel.toml"
        return
    assert manifest.app == table["app"]


@given(
    hours=st.integers(0, 99),
    minutes=st.integers(0, 99),
    seconds=st.integers(0, 99),
    millis=st.integers(0, 999),
)
def test_a_time_is_its_parts(hours: int, minutes: int, seconds: int, millis: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{millis}ms"
    assert duration(text) == hours * 3600 + minutes * 60 + seconds + millis / 1000
