"""Connections as git's configuration wants them for a URL: `http.<key>`, `http.<url>.<key>` (git-config(1)).

Settings of a URL count below it: the same scheme, host, port and, if it has one, user; `*` is one label of a host. Of
two that count the more specific wins, by host, then path, then user. It is matched here and not by dulwich (1.2.21),
which takes parts of URLs, so that a header reaches hosts that git does not send it to, knows no `*`, and has the
environment's proxy win over `http.proxy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from dulwich.client import check_for_proxy_bypass, default_user_agent_string

from gitrel.errors import RemoteError
from gitrel.store.location import GitConfig, Location

_PORTS = {"http": 80, "https": 443}
_FALSE = ("false", "no", "off", "0", "")

Rank = tuple[int, int, bool]


def open_pool(
    location: Location, config: GitConfig, env: Mapping[str, str], timeout: urllib3.Timeout
) -> urllib3.PoolManager:
    """`env` has the proxy that the environment names for the scheme (`location.proxied`). Raises `RemoteError`."""
    found = settings(config, location)
    last = {key: values[-1] for key, values in found.items()}
    ca = last.get("sslcainfo")
    options: dict[str, Any] = {
        "ca_certs": f"{env.get('HOME', '~')}{ca[1:]}" if ca and ca.startswith("~/") else ca,
        "cert_reqs": "CERT_NONE" if last.get("sslverify", "true").lower() in _FALSE else "CERT_REQUIRED",
        "timeout": timeout,
        "headers": {"User-Agent": last.get("useragent") or default_user_agent_string(), **_extra(found)},
    }
    proxy = last.get("proxy", env.get(f"{location.scheme}_proxy", ""))
    if not proxy or check_for_proxy_bypass(location.safe):
        return urllib3.PoolManager(**options)
    url, proxy_headers = _proxy(proxy, location.safe)
    return urllib3.ProxyManager(url, proxy_headers=proxy_headers, **options)


def settings(config: GitConfig, location: Location) -> dict[str, list[str]]:
    """All values of each key, in lower case, that count for a URL; the last one wins."""
    best: dict[str, Rank] = {}
    found: dict[str, list[str]] = {}
    for name, value in config.variables():
        if name[0] != "http" or len(name) > 3:
            continue
        rank = _rank(name[1], location) if len(name) == 3 else (0, 0, False)
        if rank is not None and rank >= best.get(name[-1], rank):
            best[name[-1]] = rank
            found.setdefault(name[-1], []).append(value)
    return found


def _rank(pattern: str, there: Location) -> Rank | None:
    """How specific a URL of the configuration is for a place; None if it is not for that."""
    try:
        parts = urlsplit(pattern)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    host, path = parts.hostname or "", parts.path.rstrip("/")
    if (parts.scheme, port) != (there.scheme, there.port or _PORTS.get(there.scheme)):
        return None
    if not _is_host(host, there.host.lower()) or not f"{there.path}/".startswith(f"{path}/"):
        return None
    if parts.username is not None and unquote(parts.username) != there.user:
        return None
    return len(host), len(path), parts.username is not None


def _is_host(pattern: str, host: str) -> bool:
    wanted, labels = pattern.split("."), host.split(".")
    return len(wanted) == len(labels) and all(want in ("*", label) for want, label in zip(wanted, labels, strict=True))


def _extra(found: Mapping[str, list[str]]) -> dict[str, str]:
    """`http.extraHeader`; an empty value forgets those before it."""
    values = found.get("extraheader", [])
    last = max((at for at, value in enumerate(values) if not value), default=-1)
    pairs = (value.partition(":") for value in values[last + 1 :])
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _proxy(text: str, where: str) -> tuple[str, dict[str, str]]:
    """Its URL, and the header with its password. As for curl, one without a scheme is http."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 1080)
    except ValueError:
        raise _no_proxy("it is no URL", where) from None
    if parts.scheme not in _PORTS or not host:
        raise _no_proxy(f"{parts.scheme}:// is not supported" if host else "it is no URL", where)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else {}
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}", dict(headers)


def _no_proxy(why: str, where: str) -> RemoteError:
    hint = "http.proxy, https_proxy and the like take http://HOST:PORT or https://HOST:PORT"
    return RemoteError("cannot use the proxy", where=where, why=why, hint=hint)
