"""The commands of stock git and ssh-keygen that show the same for one record, to be copied.

Every ref and id in them was parsed, so none needs quoting.
"""

from __future__ import annotations

from collections.abc import Sequence

from gitrel.audit.page.markup import EMPTY, Html, element
from gitrel.audit.page.words import Subject
from gitrel.audit.result import ReleaseReport, TrustReport
from gitrel.ids import TRUST, Entry, Ledger, ObjectId

_VERIFY = "git -c gpg.format=ssh -c gpg.ssh.allowedSignersFile=signers-{} {}"
_SHA256 = "{{ printf 'commit %s\\0' $(git cat-file -s {ref}); git cat-file commit {ref}; }} | sha256sum"


def commands(lines: Sequence[tuple[str, str]]) -> Html:
    """Each with what it is to print, as a comment of the shell's."""
    text = "\n".join(f"{line}  # {comment}" if comment else line for line, comment in lines)
    return element("pre", element("code", text), tabindex=0)


def release_commands(subject: Subject, report: ReleaseReport) -> Html:
    if report.sha256 is None:
        return commands([(f"git cat-file -p {report.ref}", "could not be read as a release")])
    ref, lines = report.ref, list[tuple[str, str]]()
    if report.trust is not None:
        lines += _signers(report.trust.entry)
        lines.append((_VERIFY.format(report.trust.entry, f"verify-commit {ref}"), ""))
        lines += [
            (_VERIFY.format(report.trust.entry, f"verify-tag {each.ref}"), "an approval")
            for each in subject.approvals.get(report.oid, ())
        ]
    lines += _identity(ref, report.oid, report.sha256)
    if report.build is not None:
        lines.append((f"git rev-parse {ref}:build {report.build.oid}:build", "the same id twice"))
    lines.append((f"git cat-file commit {ref}", "what was signed"))
    if report.entry > 1:
        before = Ledger.releases(report.deploy)[report.entry - 1]
        lines.append((f"git diff --stat {before}:build {ref}:build", "what it changed"))
    return commands(lines)


def trust_commands(report: TrustReport) -> Html:
    if report.sha256 is None:
        return EMPTY
    by = Entry(max(report.entry - 1, 1))
    signed = (_VERIFY.format(by, f"verify-commit {report.ref}"), "")
    shown = (f"git show {report.ref}:trust.toml", "what it says")
    return commands([*_signers(by), signed, *_identity(report.ref, report.oid, report.sha256), shown])


def _signers(entry: Entry) -> list[tuple[str, str]]:
    return [(f"git show {TRUST[entry]}:allowed_signers > signers-{entry}", "")]


def _identity(ref: str, oid: ObjectId, sha256: str) -> list[tuple[str, str]]:
    return [(f"git rev-parse {ref}", oid), (_SHA256.format(ref=ref), sha256)]


def byhand(subject: Subject) -> Html:
    first = [
        ("git clone --mirror URL audited.git && cd audited.git", "in a place of your own"),
        ("export GIT_NO_REPLACE_OBJECTS=1 GIT_GRAFT_FILE=/dev/null", ""),
        ("git fsck --strict --no-dangling", ""),
        (_SHA256.format(ref=TRUST[1]), subject.audit.pin),
        ("git log --graph refs/releases/v1", "any release: the records that it is made of"),
    ]
    return element(
        "section",
        element("h2", "Verify by hand", id="byhand-h"),
        element(
            "p",
            "Nothing here has to be believed because gitrel says so. With git, ssh-keygen and sha256sum, in a clone "
            "that you made yourself, and with a pin that you got from the app's people and not from the repository:",
        ),
        commands(first),
        element(
            "p",
            "Then, for each release, the commands in its details; what they are to print stands behind them. They show "
            "who signed what, and that the files are those of the build. Roles, thresholds and order are for gitrel to "
            "check, or for whoever writes it a second time by its specification.",
        ),
        id="byhand",
        aria_labelledby="byhand-h",
    )
