"""git's URLs and names for remotes, by git's rules; and no credential ever shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import UsageError
from gitrel.ids import ObjectFormat
from gitrel.store.location import GitConfig, Location, parse_location, proxied
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository

HERE = Path("/srv/here")


def at(scheme: str, path: str, **more: object) -> Location:
    return Location(scheme=scheme, path=path, **more)  # type: ignore[arg-type]


GOOD = {
    "/srv/shop.git": at("local", "/srv/shop.git"),
    "../shop.git": at("local", "/srv/shop.git"),
    "shop": at("local", "/srv/here/shop"),
    "./host:path": at("local", "/srv/here/host:path"),
    "file:///srv/with%20space": at("local", "/srv/with space"),
    "file://localhost/srv/x": at("local", "/srv/x"),
    "git://example.org/shop.git": at("git", "/shop.git", host="example.org"),
    "git://example.org:1234/shop.git": at("git", "/shop.git", host="example.org", port=1234),
    "git://[::1]:1234/shop.git": at("git", "/shop.git", host="::1", port=1234),
    "ssh://git@example.org/shop.git": at("ssh", "/shop.git", host="example.org", user="git"),
    "ssh://example.org:2222/~me/shop.git": at("ssh", "~me/shop.git", host="example.org", port=2222),
    "git+ssh://example.org/x": at("ssh", "/x", host="example.org"),
    "git@example.org:team/shop.git": at("ssh", "team/shop.git", host="example.org", user="git"),
    "example.org:/abs/shop.git": at("ssh", "/abs/shop.git", host="example.org"),
    "[::1]:shop.git": at("ssh", "shop.git", host="::1"),
    "http://example.org/a%20b.git": at("http", "/a%20b.git", host="example.org"),
    "https://me:p%40ss@example.org/x": at("https", "/x", host="example.org", user="me", password="p@ss"),
}


@pytest.mark.parametrize("url", GOOD)
def test_urls(url: str) -> None:
    assert parse_location(url, HERE) == GOOD[url]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ext::sh -c 'touch /tmp/x'",
        "fd::7",
        "ftp://example.org/x",
        "javascript://x",
        "ssh://-oProxyCommand=x/y",
        "-oProxyCommand=x:y",
        "ssh://-u@example.org/x",
        "ssh://example.org/-x".replace("/-x", ""),
        "example.org:-x",
        "https://example.org",
        "https://example.org/x?y",
        "https://example.org/x#y",
        "https://example.org:port/x",
        "file://example.org/x",
        "https://exa mple.org/x",
        "https:///x",
        "ssh://example.org/a%0Ab",
        "git://example.org/a%00b",
        "/srv/a\nb",
        "https://[::1/x",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_location(url, HERE)


@given(st.text(min_size=1, max_size=30), st.text(min_size=3, max_size=30))
def test_no_password_is_shown(user: str, password: str) -> None:
    """Neither in what is for messages, nor in the repr that lands in tracebacks."""
    location = Location(scheme="https", host="h", path="/x", user=user, password=password)
    assert location.safe == "https://h/x"
    assert repr(location) == "Location('https://h/x')"


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_a_usage_error(text: str) -> None:
    try:
        location = parse_location(text, HERE)
    except UsageError:
        return
    assert location.safe


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@exa mple/x", "https://me:hunter2@example.org:x/y", "https://me:hunter2@h/?q"]
)
def test_no_password_in_a_refusal(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_location(url, HERE)
    assert "hunter2" not in str(caught.value) + caught.value.hint


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init_bare(tmp_path / "repo.git", ObjectFormat.SHA1)


def configure(repo: Repository, name: str, value: str) -> None:
    subprocess.run(["git", "config", "--add", name, value], cwd=repo.path, check=True)


class TestNames:
    def test_url_and_pushurl(self, repo: Repository) -> None:
        configure(repo, "remote.origin.url", "https://example.org/a")
        configure(repo, "remote.origin.url", "https://example.org/second")
        configure(repo, "remote.origin.pushurl", "git@example.org:a")
        remote = Remote.resolve(repo, "origin", env={})
        assert remote.safe_url == "https://example.org/a"
        assert remote._push.safe == "ssh://example.org/a"

    def test_a_relative_path_is_the_repository_s(self, repo: Repository) -> None:
        configure(repo, "remote.origin.url", "../other.git")
        assert Remote.resolve(repo, "origin", env={}).safe_url == str(repo.path.parent / "other.git")

    def test_unknown(self, repo: Repository) -> None:
        with pytest.raises(UsageError, match="no such remote"):
            Remote.resolve(repo, "upstream", env={})
        with pytest.raises(UsageError, match="no such remote"):
            Remote.resolve(None, "origin", env={})

    def test_instead_of(self, repo: Repository, tmp_path: Path) -> None:
        """The longest match wins; pushInsteadOf does not touch an explicit pushurl."""
        configure(repo, "url.https://a.example/.insteadOf", "work:")
        configure(repo, "url.https://b.example/.insteadOf", "work:b/")
        configure(repo, "url.ssh://push.example/.pushInsteadOf", "work:")
        remote = Remote.resolve(repo, "work:x", env={})
        assert (remote.safe_url, remote._push.safe) == ("https://a.example/x", "ssh://push.example/x")
        assert Remote.resolve(repo, "work:b/x", env={}).safe_url == "https://b.example/x"
        configure(repo, "remote.origin.url", "work:x")
        configure(repo, "remote.origin.pushurl", "work:y")
        assert Remote.resolve(repo, "origin", env={})._push.safe == "https://a.example/y"

    def test_an_insteadof_cannot_leave_the_list_of_schemes(self, repo: Repository) -> None:
        configure(repo, "url.ext::sh -c .insteadOf", "https://")
        with pytest.raises(UsageError, match="not supported"):
            Remote.resolve(repo, "https://example.org/x", env={})


class TestConfig:
    def test_who_wins(self, repo: Repository, tmp_path: Path) -> None:
        """System, user, repository, environment: the last says it."""
        env = {"HOME": str(tmp_path), "GIT_CONFIG_SYSTEM": str(tmp_path / "system")}
        key = (("core",), "sshCommand")
        (tmp_path / "system").write_text("[core]\n\tsshcommand = system\n")
        assert GitConfig(repo.path, env).get(*key) == "system"
        (tmp_path / ".gitconfig").write_text("[core]\n\tsshcommand = user\n")
        assert GitConfig(repo.path, env).get(*key) == "user"
        configure(repo, "core.sshCommand", "repository")
        assert GitConfig(repo.path, env).get(*key) == "repository"
        count = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.sshCommand", "GIT_CONFIG_VALUE_0": "environment"}
        assert GitConfig(repo.path, {**env, **count}).get(*key) == "environment"
        assert GitConfig(None, {**env, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": ""}).get(*key) is None

    def test_a_subsection_keeps_its_dots(self) -> None:
        env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.https://a.b/.insteadOf", "GIT_CONFIG_VALUE_0": "x:"}
        assert GitConfig(None, env).rewrite("x:y", push=False) == "https://a.b/y"


class TestProxy:
    def test_by_scheme(self) -> None:
        env = {"https_proxy": "s", "http_proxy": "h"}
        assert proxied(env, "https") == {"https_proxy": "s"}
        assert proxied(env, "http") == {"http_proxy": "h"}
        assert proxied(env, "ssh") == {}

    def test_upper_case(self) -> None:
        """curl takes no HTTP_PROXY: a CGI's request header would set it."""
        env = {"HTTPS_PROXY": "s", "HTTP_PROXY": "h", "NO_PROXY": "localhost"}
        assert proxied(env, "https")["https_proxy"] == "s"
        assert "http_proxy" not in proxied(env, "http")
        assert proxied(env, "http")["no_proxy"] == "localhost"

    def test_all_proxy(self) -> None:
        assert proxied({"ALL_PROXY": "a"}, "http")["http_proxy"] == "a"
