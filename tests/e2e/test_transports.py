"""Every transport against the real server, and every operation on each; then what networks and servers do wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import PASSWORD, TRANSPORTS, USER, Servers, Work, servers, work

from gitrel.errors import Conflict, RemoteError, UsageError
from gitrel.ids import ObjectId
from gitrel.store.remote import FilterUnsupported, Remote

__all__ = ["servers", "work"]  # fixtures

FORMATS = ("sha1", "sha256")
PROTOCOLS = pytest.mark.parametrize(("object_format", "version"), [("sha1", 2), ("sha1", 0), ("sha256", 2)])
WAYS = ("path", "git", "ssh", "http")
V1, V2, V3 = (f"refs/releases/v{number}" for number in (1, 2, 3))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository's name on the servers, one per test."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name.replace("hunter2", ""))


Make = Callable[..., Work]


@PROTOCOLS
@pytest.mark.parametrize("transport", TRANSPORTS)
class TestEveryTransport:
    """The matrix: each way to a host, with both object formats, by both versions of git's protocol.

    SHA-256 by version 0 is `test_a_server_that_speaks_version_0`.
    """

    def test_list_push_fetch(
        self, servers: Servers, work: Make, name: str, transport: str, object_format: str, version: int
    ) -> None:
        """The life of two releases: empty, pushed, listed, fetched, fetched again on top, a third refused."""
        at = work(object_format, version=version)
        servers.create(name, object_format=object_format)
        one, two = at.commit("one", "1", files=50), at.commit("two", "2")
        with at.remote(servers.url(transport, name, version)) as remote:
            assert remote.list(["refs/"]) == {}
            assert remote.offers(push=False).version == version
            remote.push(at.repo, {V1: one})
            remote.push(at.repo, {f"refs/builds/{two}": two, V2: two})
            assert remote.list(["refs/releases/"]) == {V1: one, V2: two}
            assert at.pull(remote, [one]).objects == 53
            assert at.pull(remote, [two], haves=(one,)).objects == 3
            at.fsck(v1=one, v2=two)
            with pytest.raises(Conflict, match=V1):
                remote.push(at.repo, {V3: two, V1: two})
            assert remote.list(["refs/releases/"]) == {V1: one, V2: two}

    def test_no_such_repository(
        self, servers: Servers, work: Make, name: str, transport: str, object_format: str, version: int
    ) -> None:
        at = work(object_format, version=version)
        with at.remote(servers.url(transport, name, version)) as remote:
            for operation in (lambda: remote.list(["refs/"]), lambda: remote.push(at.repo, {V1: at.commit("a", "1")})):
                with pytest.raises(RemoteError) as caught:
                    operation()
                assert caught.value.where == remote.safe_url
                assert caught.value.hint
                assert PASSWORD not in str(caught.value)


@PROTOCOLS
@pytest.mark.parametrize("transport", WAYS)
class TestEveryWay:
    """The same for the rest, without those that differ in how an address is written, and in TLS."""

    def test_shallow_stays_incremental(
        self, servers: Servers, work: Make, name: str, transport: str, object_format: str, version: int
    ) -> None:
        at = work(object_format, version=version)
        servers.create(name, object_format=object_format)
        commits = [at.commit("one", "1", files=50), at.commit("two", "2"), at.commit("three", "3")]
        with at.remote(servers.url(transport, name, version)) as remote:
            remote.push(at.repo, {V2: commits[1], V3: commits[2]})
            assert at.pull(remote, [commits[1]], depth=1).objects == 53
            assert (at.home.path / "shallow").read_text() == f"{commits[1]}\n"
            done = at.pull(remote, [commits[2]], haves=(commits[1],), shallow=(commits[1],), depth=1)
            assert done.objects == 3
            assert commits[0] not in at.home
            at.fsck(v2=commits[1], v3=commits[2])

    def test_filter(
        self, servers: Servers, work: Make, name: str, transport: str, object_format: str, version: int
    ) -> None:
        """Of a server that does not offer it, and then it does."""
        at = work(object_format, version=version)
        bare = servers.create(name, object_format=object_format)
        one, two = at.commit("one", "1", files=50), at.commit("two", "2")
        with at.remote(servers.url(transport, name, version)) as remote:
            remote.push(at.repo, {V2: two})
            with pytest.raises(FilterUnsupported):
                at.pull(remote, [two], filter_spec="tree:0")
            assert two not in at.home
            at.git("config", "uploadpack.allowFilter", "true", folder=bare)
            done = at.pull(remote, [two], filter_spec="tree:0")
            assert (done.filtered, done.objects) == (True, 2)
            assert one in at.home
            assert ObjectId(at.git("rev-parse", "HEAD^{tree}")) not in at.home
            at.fsck(v2=two)

    def test_other_object_format(
        self, servers: Servers, work: Make, name: str, transport: str, object_format: str, version: int
    ) -> None:
        other = FORMATS[1 - FORMATS.index(object_format)]
        at, theirs = work(object_format, version=version), work(other, "theirs", version)
        servers.create(name, object_format=other)
        one = theirs.commit("one", "1")
        with theirs.remote(servers.url(transport, name, version)) as remote:
            remote.push(theirs.repo, {V1: one})
            with pytest.raises(RemoteError, match="object format is another"):
                remote.push(at.repo, {V2: at.commit("mine", "1")})
            with pytest.raises(RemoteError, match="object format is another"):
                at.pull(remote, [one])


@pytest.mark.parametrize("object_format", FORMATS)
@pytest.mark.parametrize("transport", WAYS)
def test_a_server_without_atomic_push(
    servers: Servers, work: Make, name: str, transport: str, object_format: str
) -> None:
    """One ref after the other, in the order given, and nothing after the first that is refused."""
    at = work(object_format)
    bare = servers.create(name, object_format=object_format)
    at.git("config", "receive.advertiseAtomic", "false", folder=bare)
    hook = bare / "hooks" / "update"
    hook.write_text('#!/bin/sh\necho "$1" >> log\ntest "$1" != refs/config/v1\n')
    hook.chmod(0o755)
    one, two = at.commit("one", "1"), at.commit("two", "2")
    with at.remote(servers.url(transport, name)) as remote:
        assert "atomic" not in remote.offers(push=True).able
        remote.push(at.repo, {f"refs/builds/{one}": one, V1: one})
        assert (bare / "log").read_text().split() == [f"refs/builds/{one}", V1]
        with pytest.raises(RemoteError, match="hook declined"):
            remote.push(at.repo, {f"refs/builds/{two}": two, "refs/config/v1": two, V2: two})
        shown = {f"refs/builds/{one}": one, f"refs/builds/{two}": two, V1: one}
        assert remote.list(["refs/"]) == shown
        with pytest.raises(Conflict, match=V1):
            remote.push(at.repo, {V2: two, V1: two})
        assert remote.list(["refs/"]) == shown


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestRaces:
    def test_two_pushes_of_one_ref(self, servers: Servers, work: Make, name: str, transport: str) -> None:
        """Exactly one wins, the other is told; and the winner's repetition is fine."""
        at = work()
        servers.create(name)
        commits = [at.commit(text, text) for text in ("one", "two")]
        barrier = threading.Barrier(2)

        def push(oid: ObjectId) -> ObjectId | None:
            with at.remote(servers.url(transport, name)) as remote:
                remote.list(["refs/"])
                barrier.wait()
                try:
                    remote.push(at.repo, {f"refs/builds/{oid}": oid, V1: oid})
                except Conflict as error:
                    assert error.where == V1
                    return None
                return oid

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(push, commits))
        winners = [oid for oid in results if oid is not None]
        assert len(winners) == 1
        with at.remote(servers.url(transport, name)) as remote:
            # all or nothing: the loser's build did not stay behind
            assert remote.list(["refs/"]) == {V1: winners[0], f"refs/builds/{winners[0]}": winners[0]}
            remote.push(at.repo, {V1: winners[0]})


def test_second_pull_costs_what_stock_git_pays(servers: Servers, work: Make, name: str) -> None:
    """2,000 files, one changes, depth 1: within 1.2 times of the pack that `git fetch --depth=1` receives."""
    at = work()
    servers.create(name)
    one, two = at.commit("one", "1", files=2000), at.commit("two", "2")
    url = servers.url("file", name)
    with at.remote(url) as remote:
        remote.push(at.repo, {V1: one, V2: two})
        first = at.pull(remote, [one], depth=1)
        second = at.pull(remote, [two], haves=(one,), shallow=(one,), depth=1)
    stock = at.folder / "stock.git"
    at.git("init", "-q", "--bare", str(stock))
    at.git("fetch", "-q", "--depth=1", url, f"{V1}:{V1}", folder=stock)
    trace = at.folder / "stock.pack"
    at.env["GIT_TRACE_PACKFILE"] = str(trace)
    at.git("fetch", "-q", "--depth=1", url, f"{V2}:{V2}", folder=stock)
    assert second.wire_bytes < 1.2 * trace.stat().st_size + 300  # the advertisement of capabilities
    assert second.wire_bytes < first.wire_bytes / 10


@pytest.mark.parametrize("transport", ["path", "http"])
def test_push_sends_what_is_new(servers: Servers, work: Make, name: str, transport: str) -> None:
    """A record without parents, made of trees that the remote has in its newest release, costs a few objects."""
    at = work()
    bare = servers.create(name)
    one = at.commit("one", "1", files=300)
    with at.remote(servers.url(transport, name)) as remote:
        remote.push(at.repo, {V1: one})
        before = _count_objects(at, bare)
        at.commit("two", "2")
        alone = ObjectId(at.git("commit-tree", "HEAD^{tree}", "-m", "without parents"))
        remote.push(at.repo, {V2: alone})
    assert _count_objects(at, bare) - before == 3


def _count_objects(at: Work, bare: Path) -> int:
    lines = at.git("count-objects", "-v", folder=bare).splitlines()
    figures = dict(line.split(": ") for line in lines)
    return int(figures["count"]) + int(figures["in-pack"])


def test_local_path_without_git(servers: Servers, work: Make, name: str) -> None:
    """A server needs no git program: dulwich reads the path. Pushing says that it does."""
    at = work()
    servers.create(name)
    one, two = at.commit("one", "1", files=20), at.commit("two", "2")
    url = servers.url("path", name)
    with at.remote(url) as remote:
        remote.push(at.repo, {V1: one, V2: two})
    with at.remote(url, PATH="/nonexistent") as remote:
        assert remote.list(["refs/"]) == {V1: one, V2: two}
        assert at.pull(remote, [one]).objects == 23
        assert at.pull(remote, [two], haves=(one,)).objects == 3
        with pytest.raises(RemoteError, match="needs git"):
            remote.push(at.repo, {V3: two})
        with pytest.raises(FilterUnsupported):
            at.pull(remote, [two], filter_spec="tree:0", haves=(one,))
    at.fsck(v2=two)


@pytest.mark.parametrize("atomic", [True, False])
def test_hook_that_refuses(servers: Servers, work: Make, name: str, atomic: bool) -> None:
    """What the server's hook says reaches the user, harmless to a terminal, and the release is not there."""
    at = work()
    bare = servers.create(name)
    at.git("config", "receive.advertiseAtomic", str(atomic).lower(), folder=bare)
    hook = bare / "hooks" / "update"
    refuse = "printf 'not \\033[31mtoday\\n'; echo . >> asked; exit 1"
    hook.write_text(f"#!/bin/sh\ncase $1 in refs/builds/*) {refuse};; esac\n")
    hook.chmod(0o755)
    one = at.commit("one", "1")
    with at.remote(servers.url("ssh", name)) as remote:
        with pytest.raises(RemoteError, match="hook declined") as caught:
            remote.push(at.repo, {f"refs/builds/{one}": one, V1: one})
        assert "\\x1b[31mtoday" in str(caught.value)
        assert (bare / "asked").read_text() == ".\n", "once"
        assert remote.list(["refs/"]) == {}


class TestRefusedConnections:
    @pytest.mark.parametrize(
        ("url", "what"),
        [
            ("http://wrong:hunter2@127.0.0.1:{http}/{name}.git", "wants a user and a password"),
            ("http://127.0.0.1:{http}/{name}.git", "wants a user and a password"),
            ("https://127.0.0.1:{http}/{name}.git", "cannot reach|connection broke|certificate"),
            ("http://127.0.0.1:1/{name}.git", "cannot reach the remote"),
            ("git://127.0.0.1:1/{name}.git", "cannot reach the remote"),
            ("ssh://127.0.0.1:1/{name}.git", "cannot reach the remote"),
            ("ssh://nobody-here@127.0.0.1:{ssh}/{name}.git", "does not let us in"),
            ("http://does-not-exist.invalid/{name}.git", "cannot reach the remote"),
            ("git://does-not-exist.invalid/{name}.git", "cannot reach the remote"),
            ("/nonexistent/{name}.git", "no such folder"),
            ("http://127.0.0.1:{ssh}/{name}.git", "connection broke"),
        ],
    )
    def test_says_what_and_where(self, servers: Servers, work: Make, name: str, url: str, what: str) -> None:
        servers.create(name)
        at = work()
        with at.remote(url.format(name=name, **servers.ports)) as remote:
            with pytest.raises(RemoteError, match=what) as caught:
                remote.list(["refs/"])
            assert caught.value.where == remote.safe_url
            assert caught.value.hint
            assert "hunter2" not in str(caught.value)

    def test_unknown_host_key(self, servers: Servers, work: Make, name: str, tmp_path: Path) -> None:
        """known_hosts is never overruled."""
        config = tmp_path / "ssh_config"
        text = (servers.folder / "ssh_config").read_text()
        config.write_text(text.replace(f"{servers.folder}/known_hosts", "/dev/null"))
        servers.create(name)
        at = work()
        with (
            at.remote(servers.url("ssh", name), GIT_SSH_COMMAND=f"ssh -F {config}") as remote,
            pytest.raises(RemoteError, match="host key is not known"),
        ):
            remote.list(["refs/"])

    def test_unknown_certificate_authority(self, servers: Servers, work: Make, name: str) -> None:
        servers.create(name)
        at = work()
        with (
            at.remote(servers.url("https", name), GIT_SSL_CAINFO="/etc/ssl/certs/ca-certificates.crt") as remote,
            pytest.raises(RemoteError, match="certificate"),
        ):
            remote.list(["refs/"])

    def test_core_ssh_command(self, servers: Servers, work: Make, name: str) -> None:
        """The repository's own core.sshCommand, where the environment has none, and a remote by its name.

        A shell reads the command, as in git.
        """
        servers.create(name)
        at = work()
        at.env["SSH_CONFIG"] = at.env.pop("GIT_SSH_COMMAND").rpartition(" ")[2]
        at.git("config", "core.sshCommand", 'ssh -F "$SSH_CONFIG"')
        at.git("remote", "add", "origin", f"short:{name}.git")
        at.git("config", f"url.{servers.url('ssh', '')[: -len('.git')]}.insteadOf", "short:")
        with Remote.resolve(at.repo, "origin", env=at.env) as remote:
            assert remote.list(["refs/"]) == {}


@pytest.mark.parametrize("object_format", FORMATS)
def test_a_server_that_speaks_version_0(
    servers: Servers, work: Make, name: str, tmp_path: Path, object_format: str
) -> None:
    """As before git 2.18, or behind an sshd that takes no GIT_PROTOCOL: ssh is a wrapper here that sends none."""
    at = work(object_format)
    bare = servers.create(name, object_format=object_format)
    wrapper = tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec ssh -F {servers.folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    one, two, three = at.commit("one", "1", files=50), at.commit("two", "2"), at.commit("three", "3")
    with at.remote(servers.url("ssh", name), GIT_SSH_COMMAND="", GIT_SSH=str(wrapper)) as remote:
        assert remote.list(["refs/"]) == {}
        remote.push(at.repo, {V1: one, V2: two})
        remote.push(at.repo, {V3: three})
        assert remote.offers(push=False).version == 0
        assert remote.list(["refs/releases/v2"]) == {V2: two}
        with pytest.raises(FilterUnsupported):
            at.pull(remote, [two], filter_spec="tree:0")
        at.git("config", "uploadpack.allowFilter", "true", folder=bare)
        assert at.pull(remote, [one]).objects == 53
        assert at.pull(remote, [two], haves=(one,), filter_spec="tree:0").objects == 1
        assert at.pull(remote, [three], haves=(one,), shallow=(one,), depth=1).objects == 3
        with pytest.raises(Conflict):
            remote.push(at.repo, {V1: two})
    at.fsck(v1=one, v3=three)


def test_a_credential_helper_of_gits(servers: Servers, work: Make, name: str, tmp_path: Path) -> None:
    """It is asked where the URL has no password, told what became of it, and nothing of it is shown."""
    servers.create(name)
    at = work()
    log = tmp_path / "log"
    helper = tmp_path / "helper"
    helper.write_text(
        f"#!/bin/sh\n(echo $1; cat) >> {log}\n"
        f"test $1 = get && printf 'username={USER}\\npassword=%s\\n' \"$(cat {tmp_path}/password)\"\nexit 0\n"
    )
    helper.chmod(0o755)
    at.git("config", "credential.helper", str(helper))
    at.git("remote", "add", "origin", f"https://127.0.0.1:{servers.ports['https']}/{name}.git")
    (tmp_path / "password").write_text("hunter2")
    with Remote.resolve(at.repo, "origin", env=at.env) as remote:
        with pytest.raises(RemoteError, match="wants a user and a password") as caught:
            remote.list(["refs/"])
        assert "hunter2" not in str(caught.value) + caught.value.hint
        assert [line for line in log.read_text().splitlines() if "=" not in line and line] == ["get", "erase"]
        (tmp_path / "password").write_text(PASSWORD)
        one = at.commit("one", "1")
        remote.push(at.repo, {V1: one})
        assert remote.list(["refs/"]) == {V1: one}
        assert log.read_text().count("store\n") == 2
    at.git("config", "--unset", "credential.helper")
    with Remote.resolve(at.repo, "origin", env=at.env) as remote, pytest.raises(RemoteError, match="wants a user"):
        remote.list(["refs/"])


def test_a_connection_that_breaks_after_the_push_landed(servers: Servers, work: Make, name: str) -> None:
    """ssh dies in the server's post-receive hook, before the report: the push did land, and that is what is said."""
    at = work()
    bare = servers.create(name)
    hook = bare / "hooks" / "post-receive"
    hook.write_text("#!/bin/sh\nkill -9 $PPID\n")
    hook.chmod(0o755)
    one = at.commit("one", "1")
    with at.remote(servers.url("ssh", name)) as remote:
        remote.push(at.repo, {V1: one})
        assert remote.list(["refs/"]) == {V1: one}


def test_an_interrupted_push_leaves_nothing_and_can_be_repeated(servers: Servers, work: Make, name: str) -> None:
    at = work()
    bare = servers.create(name)
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nkill -9 $PPID\n")
    hook.chmod(0o755)
    one = at.commit("one", "1")
    with at.remote(servers.url("ssh", name)) as remote:
        with pytest.raises(RemoteError):
            remote.push(at.repo, {V1: one})
        assert remote.list(["refs/"]) == {}
        hook.unlink()
        remote.push(at.repo, {V1: one})
        assert remote.list(["refs/"]) == {V1: one}


@pytest.mark.parametrize("url", ["ext::sh -c true", "ftp://host/x", "rsync://host/x", "transport::address", "-u:x", ""])
def test_schemes_are_an_allow_list(url: str) -> None:
    with pytest.raises(UsageError):
        Remote.resolve(None, url, env={})
