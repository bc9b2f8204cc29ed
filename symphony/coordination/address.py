"""Read `--cluster`: where the coordinator is and how to get in. Nothing here prints a password.

memory:                                           this process alone
etcd://host:2379[,host:2379...][/prefix]          etcd; etcds:// over TLS
    ?ca=FILE &cert=FILE &key=FILE                 TLS: whom to trust, who we are
    user[:password]@, ?password_file= or ?password_env=
kubernetes:[//namespace][/prefix]                 the cluster that this pod is in
    ?kubeconfig=FILE &context=NAME                or one that a kubeconfig names
?ttl_s=5                                          any of them: how long leases live
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from symphony.cluster.timing import Timing
from symphony.errors import ConfigError
from symphony.units import NS_PER_S

URL_CHARS_MAX = 4096
ENDPOINT_COUNT_MAX = 16
PASSWORD_BYTES_MAX = 4096
PREFIX_DEFAULT = "symphony"

_SCHEMES = ("memory", "etcd", "etcds", "kubernetes")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_NO_PORT = re.compile(r":(?![0-9]+(?:[,/?]|$))[^,/?]+")
"""A colon in front of something that is no port: a password, maybe."""
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KEYS = {
    "memory": {"ttl_s"},
    "etcd": {"ttl_s", "password_file", "password_env"},
    "etcds": {"ttl_s", "password_file", "password_env", "ca", "cert", "key"},
    "kubernetes": {"ttl_s", "kubeconfig", "context"},
}
ETCD_PORT = 2379


@dataclass(frozen=True, slots=True)
class MemoryAddress:
    """This process alone."""

    timing: Timing


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """An etcd cluster: `endpoints` are base URLs, tried in turn; `prefix` is what its keys begin with."""

    endpoints: tuple[str, ...]
    prefix: str
    timing: Timing
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.endpoints[0].startswith("https:")

    @property
    def where(self) -> str:
        """Return the address in words, without credentials."""
        return f"etcd at {', '.join(endpoint.partition('://')[2] for endpoint in self.endpoints)}"


@dataclass(frozen=True, slots=True)
class KubernetesAddress:
    """The API of a Kubernetes cluster; `namespace` "" is the pod's own, or the kubeconfig's."""

    namespace: str
    prefix: str
    timing: Timing
    kubeconfig: Path | None = None
    context: str | None = None


Address = MemoryAddress | EtcdAddress | KubernetesAddress


def parse_address(url: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Return what `url` says; raise ConfigError that says what is wrong with it, without showing credentials.

    Reads the password's file or variable, so that it is missed at start and not later.
    """
    if len(url) > URL_CHARS_MAX:
        raise ConfigError(f"--cluster: an address of {len(url)} characters; the limit is {URL_CHARS_MAX}; shorten it")
    try:
        parts = urlsplit(url)
    except ValueError:  # what it says may hold the password
        raise ConfigError(f"--cluster: {shown(url)} is no address; {_FORMS}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"--cluster: {shown(url)} does not begin with one of {', '.join(_SCHEMES)}; {_FORMS}")
    if parts.fragment:
        raise _fault(url, "it has a '#'; write it as %23")
    if "@" in parts.path + parts.query:
        raise _fault(url, "it has an '@' behind its hosts; in a password write / as %2F, ? as %3F, @ as %40")
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise _fault(url, "its options must be KEY=VALUE with & between them") from None
    options = _options(url, parts.scheme, pairs)
    timing = _timing(url, options)
    if parts.scheme == "memory":
        if parts.netloc or parts.path:
            raise _fault(url, "memory has no host and no path; write memory:")
        return MemoryAddress(timing)
    prefix = parts.path.strip("/") or PREFIX_DEFAULT
    if not _PREFIX.fullmatch(prefix):
        raise _fault(
            url, f"its prefix {prefix!r} must be 1 to 32 lower-case letters, digits and hyphens; choose another"
        )
    if parts.scheme == "kubernetes":
        if parts.netloc and not _NAMESPACE.fullmatch(parts.netloc):
            raise _fault(url, "its namespace must be at most 63 lower-case letters, digits and hyphens")
        if "context" in options and "kubeconfig" not in options:
            raise _fault(url, "it names a context but no kubeconfig; add kubeconfig=FILE")
        kubeconfig = Path(options["kubeconfig"]) if "kubeconfig" in options else None
        return KubernetesAddress(parts.netloc, prefix, timing, kubeconfig, options.get("context"))
    user_info, _, hosts = parts.netloc.rpartition("@")
    user, password = _credentials(url, user_info, options, environment)
    if ("cert" in options) != ("key" in options):
        raise _fault(url, "cert and key go together; give both, or neither")
    files = {key: Path(options[key]) for key in ("ca", "cert", "key") if key in options}
    return EtcdAddress(
        _endpoints(url, "https" if parts.scheme == "etcds" else "http", hosts),
        prefix,
        timing,
        user,
        password,
        files.get("ca"),
        files.get("cert"),
        files.get("key"),
    )


def shown(url: str) -> str:
    """Return `url` as a message may show it: without what is or may be meant to be a password, and cut."""
    scheme, colon, rest = url.partition(":")
    slashes = "//" if rest.startswith("//") else ""
    rest = rest.removeprefix(slashes)
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    text = scheme + colon + slashes + _NO_PORT.sub(":***", rest)
    return repr(text if len(text) <= 200 else text[:200] + "...")


_FORMS = "write etcd://HOST:2379[,HOST:2379...], etcds:// for TLS, kubernetes: or memory:"


def _fault(url: str, fault: str) -> ConfigError:
    return ConfigError(f"--cluster {shown(url)}: {fault}")


def _options(url: str, scheme: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in pairs:
        if key not in _KEYS[scheme]:
            if scheme == "etcd" and key in _KEYS["etcds"]:
                raise _fault(url, f"{key}= is for TLS; write etcds://")
            close = difflib.get_close_matches(key, _KEYS[scheme], 1)
            remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(_KEYS[scheme]))}"
            raise _fault(url, f"{key[:40]!r} is unknown for {scheme}; {remedy}")
        if key in options or not value:
            raise _fault(url, f"{key}= must have one value; give it once")
        options[key] = value
    return options


def _timing(url: str, options: Mapping[str, str]) -> Timing:
    if "ttl_s" not in options:
        return Timing()
    try:
        return Timing.of_ttl(round(float(options["ttl_s"]) * NS_PER_S))
    except (ValueError, OverflowError) as error:
        raise _fault(url, f"ttl_s={options['ttl_s'][:20]}: {error}") from None


def _endpoints(url: str, scheme: str, hosts: str) -> tuple[str, ...]:
    endpoints = []
    for host in hosts.split(","):
        found = _HOST_PORT.fullmatch(host)
        port = int(found[2] or ETCD_PORT) if found else 0
        if found is None or not 0 < port < 65536:
            masked = _NO_PORT.sub(":***", host)[:80]
            raise _fault(url, f"{masked!r} is no HOST:PORT; name each member of etcd so, with commas between")
        endpoints.append(f"{scheme}://{found[1]}:{port}")
    if len(endpoints) > ENDPOINT_COUNT_MAX or len(set(endpoints)) < len(endpoints):
        raise _fault(url, f"{len(endpoints)} endpoints; at most {ENDPOINT_COUNT_MAX} different ones can be named")
    return tuple(endpoints)


def _credentials(
    url: str, user_info: str, options: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[str, str]:
    user, has_password, password = user_info.partition(":")
    sources = [bool(has_password), "password_file" in options, "password_env" in options]
    if sum(sources) > 1:
        raise _fault(
            url, "the password is given more than once; keep one of USER:PASSWORD@, password_file, password_env"
        )
    if any(sources) and not user:
        raise _fault(url, "a password without a user; write etcd://USER@HOST:PORT")
    if user and not any(sources):
        raise _fault(url, "a user without a password; add password_file=FILE or password_env=NAME")
    if "password_env" in options:
        name = options["password_env"]
        if not environment.get(name):
            raise _fault(url, f"the environment variable {name[:80]} is not set; set it to the password")
        return unquote(user), environment[name]
    if "password_file" in options:
        return unquote(user), _password_in(url, Path(options["password_file"]))
    return unquote(user), unquote(password)


def _password_in(url: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(PASSWORD_BYTES_MAX + 1)
        password = content.decode().rstrip("\r\n")
    except OSError as error:
        raise _fault(url, f"the password's file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _fault(url, f"the password's file {file} is not UTF-8 text") from None
    if not password or len(content) > PASSWORD_BYTES_MAX:
        raise _fault(url, f"the password's file {file} must hold 1 to {PASSWORD_BYTES_MAX} bytes")
    return password
