"""Which of git's `http.*` settings count for a URL, held against `git config --get-urlmatch`; and proxies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import urllib3
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gitrel.errors import RemoteError
from gitrel.store.http_pool import open_pool, settings
from gitrel.store.location import GitConfig, parse_location

SECTIONS = [
    "http.{}",
    "http.https://git.example.com.{}",
    "http.https://git.example.com/.{}",
    "http.https://git.example.com:443/team.{}",
    "http.https://git.example.com:8443/team.{}",
    "http.https://git.example.com/team/.{}",
    "http.https://git.example.com/team/shop.git.{}",
    "http.https://git.example.com/tea.{}",
    "http.https://*.example.com/.{}",
    "http.https://*.*.com/team.{}",
    "http.https://example.com/.{}",
    "http.https://com/.{}",
    "http.https://GIT.EXAMPLE.COM.{}",
    "http.https://ci@git.example.com/.{}",
    "http.https://eve@git.example.com/.{}",
    "http.http://git.example.com/.{}",
    "http.git.example.com.{}",
    "http.example.com.{}",
    "http.https://.{}",
    "http.https://[x.{}",
    "http./team.{}",
    "https.https://git.example.com.{}",
]
URLS = [
    "https://git.example.com/team/shop.git",
    "https://git.example.com/team-evil/shop.git",
    "https://git.example.com.evil.org/team/shop.git",
    "https://git.example.com:8443/team/shop.git",
    "https://ci@git.example.com/team/shop.git",
    "https://example.com/team/shop.git",
    "http://git.example.com/team/shop.git",
]


def read(path: Path) -> GitConfig:
    return GitConfig(None, {"GIT_CONFIG_GLOBAL": str(path), "GIT_CONFIG_NOSYSTEM": "1"})


@given(st.lists(st.sampled_from(SECTIONS), min_size=1, max_size=5), st.sampled_from(URLS))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_counts_is_what_git_says(tmp_path: Path, sections: list[str], url: str) -> None:
    """A header for one host goes to no other one: this is what decides it."""
    path = tmp_path / "config"
    path.unlink(missing_ok=True)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    for number, section in enumerate(sections):
        argv = ["git", "config", "--file", str(path), "--add", section.format("proxy"), f"{number}"]
        subprocess.run(argv, check=True, env=env)
    argv = ["git", "config", "--file", str(path), "--get-urlmatch", "http.proxy", url]
    git = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    ours = settings(read(path), parse_location(url, Path("/"))).get("proxy", [])
    assert ours[-1:] == git.stdout.split(), (sections, url)


def test_headers_add_up_until_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        '[http]\n extraHeader = "A: old"\n extraHeader =\n extraHeader = "B: 1"\n'
        '[http "https://a.example"]\n extraHeader = "C: x: y"\n'
    )
    timeout = urllib3.Timeout(1)
    for url, want in (("https://a.example/x", {"B": "1", "C": "x: y"}), ("https://b.example/x", {"B": "1"})):
        pool = open_pool(parse_location(url, Path("/")), read(path), {}, timeout)
        assert {name: value for name, value in pool.headers.items() if name != "User-Agent"} == want


@pytest.mark.parametrize(
    ("configured", "env", "want"),
    [
        (None, {}, None),
        (None, {"https_proxy": "http://p:1"}, "http://p:1"),
        ("http://p:1", {"https_proxy": "http://other:1"}, "http://p:1"),
        ("", {"https_proxy": "http://p:1"}, None),
        ("p:3128", {}, "http://p:3128"),
        ("p", {}, "http://p:1080"),
        ("https://p", {}, "https://p:443"),
        ("http://[::1]:8080", {}, "http://::1:8080"),
        ("http://me:s3%40cret@p:1", {}, "http://p:1"),
    ],
)
def test_the_proxy_is_the_one_that_git_takes(
    tmp_path: Path, configured: str | None, env: dict[str, str], want: str | None
) -> None:
    path = tmp_path / "config"
    path.write_text("" if configured is None else f'[http]\n proxy = "{configured}"\n')
    pool = open_pool(parse_location("https://git.example.com/x", Path("/")), read(path), env, urllib3.Timeout(1))
    proxy = pool.proxy
    assert (proxy and f"{proxy.scheme}://{(proxy.host or '').strip('[]')}:{proxy.port}") == want
    if configured and "@" in configured:
        assert isinstance(pool, urllib3.ProxyManager)
        assert pool.proxy_headers == urllib3.make_headers(proxy_basic_auth="me:s3@cret")


@pytest.mark.parametrize("bad", ["socks5://me:hunter2@p:1", "http://me:hunter2@p:x", "http://me:hunter2@[p", "http://"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(tmp_path: Path, bad: str) -> None:
    location = parse_location("https://git.example.com/x", Path("/"))
    with pytest.raises(RemoteError, match="cannot use the proxy") as caught:
        open_pool(location, read(tmp_path / "none"), {"https_proxy": bad}, urllib3.Timeout(1))
    assert caught.value.where == "https://git.example.com/x"
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"
