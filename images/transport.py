"""Requests to one registry: TLS and whom it trusts, retries of what may pass, and who we are.

Cut connections, 429 and 5xx are tried again with growing pauses; all else is told at once.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from host.errors import BadData, DeadlinePassed, Failure, NotFound, Usage
from images import credentials
from images.blobs import MAX_DOCUMENT_BYTES

TRIES = 5
STALL_S = 30.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is reached: in plain HTTP, with an authority of its own, with whose credentials."""

    plain_http: bool = False
    ca_file: Path | None = None
    user: str = ""
    password: str = ""


class Transport:
    """The way to the registry at `HOST[:PORT]`."""

    def __init__(
        self, host: str, access: Access | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        if not host:
            hint = "write HOST[:PORT]/NAME[:TAG]; there is no default registry"
            raise Usage("cannot reach a registry", why="the name says none", hint=hint)
        self.host, self.access, self._pause = host, access or Access(), pause
        self.scheme = "http" if self.access.plain_http else "https"
        self._authorization: dict[str, str] = {}
        self._pool = self._make_pool()

    def _make_pool(self) -> Any:
        import urllib3

        context = ssl.create_default_context()
        ca_file = self.access.ca_file or _known_authority(self.host)
        if ca_file is not None:
            try:
                context.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as error:
                raise Usage("cannot use the authority", str(ca_file), str(error)) from None
        timeout = urllib3.Timeout(connect=10, read=STALL_S)
        return urllib3.PoolManager(8, ssl_context=context, timeout=timeout, retries=False)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    # one request

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        expect: tuple[int, ...] = (200,),
        tries: int = TRIES,
    ) -> Any:
        """Send a request until its status is one of `expect`; the response, its body not read yet.

        `body` may be a callable that gives a fresh body for each try. NotFound for 404, Failure with the
        registry's words for other statuses, DeadlinePassed when all tries failed.
        """
        import urllib3

        why, scheme = "", self.scheme
        for turn in range(tries):
            if turn and scheme == self.scheme:
                self._pause(_wait_s(turn, why))
            scheme = self.scheme
            try:
                answer = self._once(method, path, dict(headers or {}), body() if callable(body) else body)
            except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                why = network_words(error)
                if isinstance(_innermost(error), ssl.SSLError | urllib3.exceptions.SSLError):
                    self._fall_back(why)
                continue
            if answer.status in expect:
                return answer
            if answer.status not in _PASSING:
                raise self._refusal(answer, path)
            retry = answer.headers.get("Retry-After", "")
            why = f"it answered {answer.status} {answer.reason}" + (
                f", retry after {retry} s" if retry else ""
            )
            answer.drain_conn()
        hint = "is the registry running, and is this its address?"
        raise DeadlinePassed("cannot reach the registry", self.host, f"{tries} tries failed; {why}", hint)

    def _once(self, method: str, path: str, headers: dict[str, str], body: Any) -> Any:
        url = path if "://" in path else f"{self.scheme}://{self.host}{path}"
        scope = _scope(path, method)
        answer = self._send(method, url, headers, body, scope)
        if answer.status != 401 or not self._authenticate(answer, scope):
            return answer
        answer.drain_conn()
        if hasattr(body, "seek"):
            body.seek(0)
        return self._send(method, url, headers, body, scope)

    def _send(self, method: str, url: str, headers: dict[str, str], body: Any, scope: str) -> Any:
        import urllib3

        known = self._authorization.get(scope) or self._authorization.get("")
        # Only the registry itself learns who we are; urllib3 takes the header away when it is sent elsewhere.
        if known and urlsplit(url).netloc == self.host:
            headers = {**headers, "Authorization": known}
        follow = urllib3.Retry(
            total=8, redirect=5, connect=0, read=0, status=0, other=0, raise_on_status=False
        )
        retries = follow if method in ("GET", "HEAD") else False
        return self._pool.request(
            method, url, headers=headers, body=body, preload_content=False, retries=retries
        )

    def _fall_back(self, why: str) -> None:
        """Loopback registries often speak plain HTTP; nobody else gets that trust unasked."""
        if "EOF" in why:
            return  # cut in the middle of the handshake: that may pass
        plain = "WRONG_VERSION" in why or "wrong version" in why or "record layer" in why
        if plain and _LOOPBACK.fullmatch(self.host):
            self.scheme = "http"
            return
        if plain:
            hint = "--plain-http, if you trust the network between"
            raise Failure("cannot reach the registry", self.host, "it speaks no TLS", hint)
        hint = "--ca-file FILE, or put it at /etc/docker/certs.d/HOST:PORT/ca.crt"
        raise Failure("cannot trust the registry", self.host, why, hint)

    # who we are

    def _authenticate(self, answer: Any, scope: str) -> bool:
        """Answer a 401 (RFC 7235): with Basic, or a token from the realm that the registry names."""
        challenge = answer.headers.get("WWW-Authenticate", "")
        kind, _, rest = challenge.partition(" ")
        told = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        who = (self.access.user, self.access.password) if self.access.user else credentials.of(self.host)
        if kind.lower() == "basic" and who:
            value = _basic(*who)
            if self._authorization.get("") == value:
                return False
            self._authorization[""] = value
            return True
        if kind.lower() == "bearer" and told.get("realm"):
            known = self._authorization.get(scope)
            self._authorization[scope] = f"Bearer {self._token(told, scope, who)}"
            return known != self._authorization[scope]
        return False

    def _token(self, told: Mapping[str, str], scope: str, who: tuple[str, str] | None) -> str:
        realm = urlsplit(told["realm"])
        if realm.scheme != "https" and not (realm.scheme == "http" and _LOOPBACK.fullmatch(realm.netloc)):
            raise BadData(
                "refused the registry", self.host, f"it sends passwords to {told['realm']!r}, not TLS"
            )
        query = {"service": told.get("service", ""), "scope": told.get("scope") or scope}
        headers = {"Authorization": _basic(*who)} if who else {}
        url = f"{told['realm']}?{urlencode(query)}"
        answer = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        data = answer.read(MAX_DOCUMENT_BYTES)
        if answer.status != 200:
            raise Failure(
                "cannot log in at", self.host, f"{realm.netloc} answered {answer.status}", self._login()
            )
        try:
            document = json.loads(data)
            return str(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise BadData("cannot log in at", self.host, "its token service sent no token") from None

    def _login(self) -> str:
        return f"vmm image login {self.host}"

    def _refusal(self, answer: Any, path: str) -> Failure:
        words = _error_words(answer)
        if answer.status in (401, 403):
            return Failure(
                "the registry refused", f"{self.host}{path}", f"{answer.status}: {words}", self._login()
            )
        if answer.status == 404:
            return NotFound(
                "the registry has no", f"{self.host}{path}", words, f"vmm image search {self.host}"
            )
        return Failure("the registry refused", f"{self.host}{path}", f"{answer.status}: {words}")

    def absolute(self, location: str) -> str:
        """The address of a place that an answer named."""
        return urljoin(f"{self.scheme}://{self.host}/", location)

    def pause(self, turn: int) -> None:
        """Wait before another try."""
        self._pause(_wait_s(turn, ""))


def _known_authority(host: str) -> Path | None:
    """docker's place for a private authority, so that a host set up for docker works at once."""
    path = Path("/etc/docker/certs.d", host, "ca.crt")
    return path if path.is_file() else None


def _basic(user: str, password: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _scope(path: str, method: str) -> str:
    match = re.search(r"/v2/(.+?)/(?:manifests|blobs|tags)/", path)
    actions = "pull" if method in ("GET", "HEAD") else "pull,push"
    return f"repository:{match[1]}:{actions}" if match else "registry:catalog:*" if "_catalog" in path else ""


def _wait_s(turn: int, why: str) -> float:
    told = re.search(r"retry after (\d+) s", why)
    return float(min(int(told[1]), 30)) if told else float(min(0.25 * 2**turn, 8))


def _innermost(error: BaseException) -> BaseException:
    """The first error in a chain of wrapped network errors."""
    inner = getattr(error, "reason", None) or error.__cause__
    return _innermost(inner) if isinstance(inner, BaseException) and inner is not error else error


def network_words(error: BaseException) -> str:
    error = _innermost(error)
    words = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", str(error))
    return words or type(error).__name__


def _error_words(answer: Any) -> str:
    """The registry's own words (distribution-spec, "Error Codes"), else the status line's."""
    data = answer.read(1 << 16)
    answer.release_conn()
    try:
        told = json.loads(data)["errors"][0]
        return f"{told.get('code', '')}: {told.get('message', '')}".strip(": ")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return str(answer.reason or "no words")
