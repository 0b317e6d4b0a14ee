"""Which credentials go to which host: users of URLs, bearer tokens of LAION_HTTP_TOKEN, netrc files. It sends nothing.

Each credential is for one origin. `client` follows redirects.
"""

from __future__ import annotations

import base64
import logging
import netrc
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from urllib3.util import Url, parse_url

from laion_assets.errors import SettingsError
from laion_assets.redact import redact
from laion_assets.settings import Settings, value_of
from laion_assets.settings.checks import token_pairs
from laion_assets.source.hub import endpoint, hub_token, is_hub

PORTS = {"http": 80, "https": 443}
NETRC = Path("~/.netrc")


@dataclass(frozen=True)
class WebOrigin:
    """Scheme, host and port: a credential belongs to one origin (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: Url) -> WebOrigin:
        """The origin of a URL."""
        scheme = (url.scheme or "").lower()
        return cls(scheme, (url.host or "").lower(), url.port or PORTS.get(scheme, 0))

    def may_hand_on(self, following: WebOrigin) -> bool:
        """Whether a redirect to another origin may get the same credentials: to the same origin, or from port 80 to the
        TLS port of one host. Another port of a host belongs to someone else (CVE-2022-27774)."""
        upgraded = WebOrigin("https", self.host, 443)
        return following == self or (self == WebOrigin("http", self.host, 80) and following == upgraded)


@dataclass(frozen=True)
class Credentials:
    """Tokens by origin or by host, and users of a netrc file by host. Its `repr` shows nothing of them."""

    tokens: dict[WebOrigin | str, str] = field(default_factory=dict, repr=False)
    users: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Credentials:
        """The credentials of the settings. A token without a host is for the first HTTP source, the hub's token is for
        the hub. A source's own variable takes precedence over both. Raises `SettingsError`."""
        places = [place.url for place in settings.sources if place.url.startswith(("http://", "https://"))]
        tokens: dict[WebOrigin | str, str] = {}
        for host, token in token_pairs(settings.http_token.get_secret_value()) if settings.http_token else ():
            if host:
                tokens[host.lower()] = token
            elif places:
                tokens[WebOrigin.of(parse_url(places[0]))] = token
        for place in settings.sources:
            of_hub = is_hub(place.url)
            if not place.token_variable and not (of_hub and hub_token()):
                continue
            origin = WebOrigin.of(parse_url(endpoint() if of_hub else place.url))
            if place.token_variable:
                tokens[origin] = value_of(place.token_variable, f"source {redact(place.url)}")
            else:
                tokens.setdefault(origin, hub_token())
        return cls(tokens, _netrc_users(settings.http_netrc) if places else {})

    def header(self, url: Url) -> dict[str, str]:
        """The Authorization header for a source's URL: of the URL's own user, else a token, else a netrc entry."""
        origin = WebOrigin.of(url)
        user = url.auth and unquote(url.auth)
        token = (
            self.tokens.get(origin) or self.tokens.get(f"{origin.host}:{origin.port}") or self.tokens.get(origin.host)
        )
        if not user and token:
            return {"Authorization": f"Bearer {token}"}
        user = user or self.users.get(origin.host)
        return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}


def _netrc_users(named: Path | None) -> dict[str, str]:
    """user:password by host. The entry called default is for every host, so it is left out.

    Raises `SettingsError` for an invalid file that LAION_HTTP_NETRC names. An invalid file in the home folder is
    ignored.
    """
    try:
        path = named or NETRC.expanduser()
        if named is None and not path.is_file():
            return {}
        hosts = netrc.netrc(str(path)).hosts
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError) as error:
        # The parser's message may quote a password.
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else ""
        found = error.strerror or "no file" if isinstance(error, OSError) else "what is no entry of a netrc file"
        if named is not None:
            raise SettingsError(
                f"LAION_HTTP_NETRC {named}{line}", found=found, expected="machine HOST login USER password PASSWORD"
            ) from None
        logging.getLogger(__name__).warning("~/.netrc%s is not used: %s", line, found)
        return {}
    return {host.lower(): f"{login}:{secret or ''}" for host, (login, _, secret) in hosts.items() if host != "default"}
