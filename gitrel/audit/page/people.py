"""Who may do what, and since when: every version of trust, the newest first, and what it changed."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from gitrel.audit.page.byhand import trust_commands
from gitrel.audit.page.markup import EMPTY, Html, code, element, facts, items, join, link, said, table
from gitrel.audit.page.words import Subject, anchor, badge, fingerprint, listed, moment, newest_trust
from gitrel.audit.result import Standing, TrustReport
from gitrel.format.trust import DeployPolicy, Role, TrustPolicy
from gitrel.ids import PRODUCTION, Deploy

_VERBS = {"root": "change trust", "heartbeat": "sign heartbeats", "receipt": "sign receipts of what a server ran"}


def trust(subject: Subject) -> Html:
    newest = newest_trust(subject.audit)
    before: dict[str, TrustPolicy | None] = {}
    policy: TrustPolicy | None = None
    for report in subject.audit.trust:
        before[report.ref] = policy
        policy = report.policy if report.standing is Standing.GOOD else policy
    versions = [
        _version(subject, each, before[each.ref], unfolded=each is newest) for each in reversed(subject.audit.trust)
    ]
    return element(
        "section",
        element("h2", "People and their roles", id="people-h"),
        element(
            "p",
            "Trust is the signed list of who may do what. Each version was signed by enough of those whom the version "
            "before it calls root; the first is the one that the auditor's pin names.",
        ),
        join(versions) or element("p", "There is none."),
        id="people",
        aria_labelledby="people-h",
    )


def _version(subject: Subject, report: TrustReport, before: TrustPolicy | None, *, unfolded: bool) -> Html:
    newest = " (in force)" if unfolded else ""
    title = element("h3", f"Trust {report.entry}{newest}")
    summary = element(
        "summary",
        title,
        " ",
        moment(report.claimed),
        " by ",
        subject.people(report.signers),
        " ",
        badge(report.standing),
    )
    found = [(number, each.code) for number, each in subject.findings_of(report.ref)]
    body = facts(
        [
            ("Said", said(report.subject)),
            ("Changed", items(changes(before, report.policy)) if report.policy else EMPTY),
            ("Signed by", subject.keys(report.signers)),
            ("Newest releases by then", _heads(report)),
            ("Commit id", code(report.oid)),
            ("SHA-256", code(report.sha256 or "unreadable")),
            ("Findings", join((link(f"finding-{number}", f"{number}. {name}") for number, name in found), ", ")),
        ]
    )
    tables = _tables(report.policy) if report.policy else element("p", "What it says could not be believed.")
    return element(
        "details", summary, body, tables, trust_commands(report), id=anchor(report.ref), open=unfolded, class_="version"
    )


def _heads(report: TrustReport) -> Html:
    return listed(f"{head.deploy} {head.entry}" for head in report.heads)


def _tables(policy: TrustPolicy) -> Html:
    roles = [(_VERBS.get(name, name), "everything", role) for name, role in policy.roles.items()]
    for name, deploy in _deploys(policy):
        roles += [("release", name, deploy.release), ("change settings", name, deploy.config)]
    rows = [(may, of, _signatures(role), listed(role.people)) for may, of, role in roles]
    who = [
        (name, join(element("div", code(fingerprint(key.id)), " ", element("small", key.kind)) for key in held))
        for name, held in sorted(policy.people.items())
    ]
    readers = [f"{name}: {len(deploy.readers)}" for name, deploy in _deploys(policy) if deploy.readers]
    banned = [
        f"{name}: {', '.join(map(str, entries))}" for name, entries in sorted(policy.repudiated.items()) if entries
    ]
    return join(
        [
            table("Who may do what", ("May", "Of", "How many must sign", "Out of"), rows),
            table("Whose key is whose", ("Person", "Keys"), who),
            facts([("Keys that can read secrets", ", ".join(readers)), ("Must never run", "; ".join(banned))]),
        ]
    )


def _deploys(policy: TrustPolicy) -> Sequence[tuple[Deploy, DeployPolicy]]:
    return sorted(policy.deploys.items(), key=lambda each: (each[0] != PRODUCTION, each[0]))


def _signatures(role: Role) -> str:
    return f"{role.threshold} of {len(role.people)}"


def changes(before: TrustPolicy | None, after: TrustPolicy) -> list[str]:
    """In words, what a version of trust changed."""
    if before is None:
        return ["the first version; the pin stands for it"]
    found = [f"{name} came" for name in sorted(after.people.keys() - before.people.keys())]
    found += [f"{name} went, with all keys" for name in sorted(before.people.keys() - after.people.keys())]
    for name in sorted(after.people.keys() & before.people.keys()):
        old, new = ({key.id for key in each.people[name]} for each in (before, after))
        found += [f"{name} got the key {fingerprint(key)}" for key in sorted(new - old)]
        found += [f"{name} lost the key {fingerprint(key)}" for key in sorted(old - new)]
    found += _role_changes(_roles(before), _roles(after), after.people)
    for deploy, _ in _deploys(after):
        if before.deploy(deploy).readers != after.deploy(deploy).readers:
            found.append(f"other keys can read the secrets of {deploy}")
        banned = set(after.repudiated.get(deploy, ())) - set(before.repudiated.get(deploy, ()))
        found += [f"{deploy} {entry} must never run (repudiated)" for entry in sorted(banned)]
    return found or ["nothing"]


def _roles(policy: TrustPolicy) -> dict[str, Role]:
    roles = {_VERBS.get(name, name): role for name, role in policy.roles.items()}
    for name, deploy in _deploys(policy):
        roles |= {f"release {name}": deploy.release, f"change the settings of {name}": deploy.config}
    return roles


def _role_changes(before: Mapping[str, Role], after: Mapping[str, Role], known: Container[str]) -> Iterator[str]:
    """Who went altogether is not named for each role."""
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            yield f"to {name}: {_signatures(new)} ({', '.join(new.people)})"
            continue
        yield from (f"{person} may now {name}" for person in new.people if person not in old.people)
        lost = [person for person in old.people if person not in new.people and person in known]
        yield from (f"{person} may no longer {name}" for person in lost)
        if old.threshold != new.threshold:
            yield f"to {name} takes {new.threshold} of {len(new.people)} people, before {old.threshold}"
    yield from (f"nobody has a role of their own to {name} any more" for name in before if name not in after)
