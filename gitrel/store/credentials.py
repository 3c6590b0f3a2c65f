"""Users and passwords from git's credential helpers (gitcredentials(7), git-credential(1)). In the transfer child only.

They are asked for when a server wants them and the URL has none, through `git credential`, which knows the helpers,
their order and their settings. What worked is approved, what did not is rejected, so that a helper can forget it. Where
there is no git, or no helper that knows, the server's answer stands.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from gitrel.dataclass import dataclass, field
from gitrel.programs import be_free_of_limits
from gitrel.store.location import Location


@dataclass(slots=True, kw_only=True)
class Credentials:
    """For one place. `repository` has configuration of its own; `interactive`: git may ask at the terminal."""

    location: Location
    repository: Path | None
    env: Mapping[str, str]
    seconds: int
    interactive: bool
    _known: dict[str, str] = field(default_factory=dict)

    def fill(self) -> tuple[str, str] | None:
        """A user and a password, None if nobody knows, or what they gave did not do."""
        there = self.location
        if there.password is not None or self._known or "\n" in (there.user or ""):  # CVE-2020-5260
            return None
        asked = {
            "protocol": there.scheme,
            "host": f"{there.host}:{there.port}" if there.port else there.host,
            "path": there.path.lstrip("/"),
            **({"username": there.user} if there.user is not None else {}),
        }
        self._known = self._ask("fill", asked)
        if "username" in self._known and "password" in self._known:
            return self._known["username"], self._known["password"]
        return None

    def settle(self, accepted: bool) -> None:
        """Tell the helpers what became of it."""
        if self._known:
            self._ask("approve" if accepted else "reject", self._known)
        self._known = {}

    def _ask(self, what: str, fields: Mapping[str, str]) -> dict[str, str]:
        git = shutil.which("git", path=self.env.get("PATH", ""))
        if git is None:
            return {}
        own = [f"--git-dir={self.repository}"] if self.repository is not None else []
        env = {**self.env} if self.interactive else {**self.env, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}
        try:
            done = subprocess.run(
                [git, *own, "credential", what],
                input="".join(f"{name}={value}\n" for name, value in fields.items()) + "\n",
                capture_output=True,
                text=True,
                env=env,
                check=False,
                timeout=self.seconds,
                preexec_fn=be_free_of_limits,
            )
        except subprocess.TimeoutExpired:
            return {}
        lines = [line.partition("=") for line in done.stdout.splitlines()] if done.returncode == 0 else []
        return {name: value for name, equals, value in lines if equals}
