"""How a remote is reached: a local program, a socket, ssh, HTTP. Runs in the transfer child only."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gitrel.errors import RemoteError
from gitrel.programs import be_free_of_limits, die_with_parent
from gitrel.store.limits import Limits
from gitrel.store.location import GitConfig, Location
from gitrel.store.wire import Line, Meter, Stream, StreamLine, unreachable

# What git clears for a local transport, as `git rev-parse --local-env-vars` lists it.
_OF_ANOTHER_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}

_SERVE = (
    "import sys; sys.path[:] = {path!r}\n"
    "from gitrel.store.connect import serve_upload_pack\n"
    "sys.exit(serve_upload_pack(sys.argv[1]))\n"
)


def open_line(
    location: Location, meter: Meter, config: GitConfig, env: Mapping[str, str], *, interactive: bool
) -> Line:
    """The line to a remote, by its scheme; nothing is connected yet."""
    match location.scheme:
        case "local":
            return StreamLine(location.safe, meter, lambda service: _local(location, meter, env, service))
        case "git":
            return StreamLine(location.safe, meter, lambda service: _tcp(location, meter, service))
        case "ssh":
            command = _ssh_command(config, env, meter.limits, interactive=interactive)
            return StreamLine(location.safe, meter, lambda service: _ssh(location, meter, command, env, service))
        case _:
            from gitrel.store.credentials import Credentials
            from gitrel.store.http import HttpLine  # urllib3 takes 40 ms to import

            known = Credentials(
                location=location,
                repository=config.repository,
                env=env,
                seconds=meter.limits.idle_seconds,
                interactive=interactive,
            )
            return HttpLine(location, meter, config, env, known)


def _tcp(location: Location, meter: Meter, service: str) -> Stream:
    """git-daemon(1); the host and the protocol's version follow the path (gitprotocol-pack(5))."""
    port = location.port or 9418
    try:
        link = socket.create_connection((location.host, port), timeout=meter.limits.connect_seconds)
    except OSError as error:
        raise unreachable(error) from error
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = Stream(meter, link.fileno(), link.fileno(), errors=None, close=link.close)
    host = f"[{location.host}]" if ":" in location.host else location.host
    extra = "\0version=2\0" if service == "git-upload-pack" else ""
    line = f"{service} {location.path}\0host={host}:{port}\0{extra}".encode()
    stream.write(b"%04x" % (len(line) + 4) + line)
    return stream


def _ssh_command(config: GitConfig, env: Mapping[str, str], limits: Limits, *, interactive: bool) -> list[str]:
    """The program and its options by git's rules: GIT_SSH_COMMAND, core.sshCommand, GIT_SSH (git(1)).

    The shell reads the first two, as in git (prepare_shell_cmd() in its run-command.c). GIT_SSH is a wrapper that may
    understand no options. Without a terminal ssh must not wait for an answer.
    """
    text = env.get("GIT_SSH_COMMAND") or config.get(("core",), "sshCommand")
    if text is None and env.get("GIT_SSH"):
        return [env["GIT_SSH"]]
    options = ["-o", f"ConnectTimeout={limits.connect_seconds}", "-o", "SendEnv=GIT_PROTOCOL"]
    batch = [] if interactive else ["-o", "BatchMode=yes"]
    return ["/bin/sh", "-c", f'{text} "$@"', text, *options, *batch] if text else ["ssh", *options, *batch]


def _ssh(location: Location, meter: Meter, command: list[str], env: Mapping[str, str], service: str) -> Stream:
    host = f"{location.user}@{location.host}" if location.user else location.host
    port = ["-p", str(location.port)] if location.port else []
    path = location.path.replace("'", "'\\''")
    argv = [*command, *port, host, f"{service} '{path}'"]
    return _program(argv, meter, {**env, "GIT_PROTOCOL": "version=2"}, ours=False)


def _local(location: Location, meter: Meter, env: Mapping[str, str], service: str) -> Stream:
    """git itself where there is one (its hooks run), else dulwich's server for reading, in another process."""
    path = Path(location.path)
    if not path.is_dir():
        raise RemoteError("no such folder", hint="check the path; `git remote -v` shows what a repository has")
    own = {name: value for name, value in env.items() if name not in _OF_ANOTHER_REPOSITORY}
    if git := shutil.which("git", path=env.get("PATH", "")):
        argv = [git, service.removeprefix("git-"), location.path]
        return _program(argv, meter, {**own, "GIT_PROTOCOL": "version=2"}, ours=False)
    if service != "git-upload-pack":
        raise RemoteError("pushing to a local path needs git", hint="install git, or push by ssh or http")
    code = _SERVE.format(path=sys.path)
    return _program([sys.executable, "-I", "-c", code, location.path], meter, own, ours=True)


def _program(argv: list[str], meter: Meter, env: Mapping[str, str], *, ours: bool) -> Stream:
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            preexec_fn=die_with_parent if ours else be_free_of_limits,  # noqa: PLW1509  (one thread here)
        )
    except OSError as error:
        raise RemoteError(
            f"cannot start {argv[0]}", why=error.strerror or str(error), hint="is it installed?"
        ) from error
    pipes = [pipe for pipe in (process.stdout, process.stdin, process.stderr) if pipe is not None]
    reader, writer, errors = (pipe.fileno() for pipe in pipes)

    def close() -> None:
        for pipe in pipes:
            pipe.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return Stream(meter, reader, writer, errors=errors, close=close)


def serve_upload_pack(path: str) -> int:
    """`git upload-pack` for a machine without git, by dulwich, on stdin and stdout.

    It speaks protocol 0 and offers no filter: dulwich 1.2.21 reads the filter where git does not send it.
    """
    from dulwich.errors import NotGitRepository
    from dulwich.server import FileSystemBackend, UploadPackHandler, serve_command

    class Handler(UploadPackHandler):
        def capabilities(self) -> list[bytes]:
            return [name for name in super().capabilities() if name != b"filter"]

    try:
        return serve_command(Handler, ["upload-pack", path], backend=FileSystemBackend("/"))
    except NotGitRepository:
        sys.stderr.write(f"'{path}' does not appear to be a git repository\n")
        return 128
