"""`gitrel init --fetch`: lines in git's configuration with which `git fetch` brings the ledgers."""

from __future__ import annotations

import subprocess

from gitrel.cli.developer import Developer
from gitrel.errors import LocalStateError, UsageError
from gitrel.store.location import GitConfig
from gitrel.store.refspecs import missing, prunes

_DEFAULT = "origin"


def fetched_from(dev: Developer, remote: str | None, wanted: bool) -> str | None:
    """The remote's name in git's configuration, None without one. Raises `UsageError` if one is `wanted`."""
    name = remote or _DEFAULT
    if dev.git.first(("remote", name), "url") is not None:
        return name
    if wanted:
        hint = "`git remote add origin URL`, then `gitrel init --fetch`"
        raise UsageError("there is no remote of that name", where=name, hint=hint)
    return None


def offer_refspecs(dev: Developer, name: str, wanted: bool) -> None:
    """Add what is missing, and change nothing that is there; unless it is `wanted`, say how."""
    lines = missing(dev.git, name)
    if not wanted:
        if lines:
            dev.console.note("note: `gitrel init --fetch` has `git fetch` bring the ledgers, too")
        return
    for line in lines:
        _git(dev, "config", "--local", "--add", f"remote.{name}.fetch", line)
        dev.console.note(f"added to git's configuration: remote.{name}.fetch = {line}")
    if prunes(GitConfig(dev.repo.path, dev.env), name):
        dev.console.note(
            "WARNING: this repository's fetches prune, which deletes builds that were not pushed yet, and records that "
            f"the remote has lost; `git config remote.{name}.prune false` ends that"
        )


def _git(dev: Developer, *words: str) -> None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=dev.source, env=dict(dev.env), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise LocalStateError("cannot run git", where=str(dev.source), why=error.strerror or "") from error
    if done.returncode:
        raise LocalStateError("cannot change git's configuration", where=str(dev.repo.path), why=done.stderr.strip())
