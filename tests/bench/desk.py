"""A developer's and a server's surroundings, for rows in which whole commands run."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, SSHPrivateKeyTypes

COUNTING = '#!/bin/sh\nfor last; do :; done\neval "$last" | tee -a {count}\n'


def set_up(scratch: Path, private: SSHPrivateKeyTypes) -> None:
    """The key that signs, who signs, the way to the remote, and the program as pip installs it.

    What a server sends to anybody whose URL begins with `ssh://` is counted in the size of `count`.
    """
    key, ssh = scratch / "key", scratch / "ssh"
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    key.chmod(0o600)
    ssh.write_text(COUNTING.format(count=scratch / "count"))
    ssh.chmod(0o755)
    (scratch / "gitrel").write_text("import sys\nfrom gitrel.cli import main\nsys.exit(main())\n")
    os.environ |= {"HOME": str(scratch), "GIT_SSH_COMMAND": str(ssh), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    settings = {"gpg.format": "ssh", "user.signingkey": str(key), "user.name": "Alice", "user.email": "a@example.org"}
    os.environ["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (name, value) in enumerate(settings.items()):
        os.environ |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
