"""What the service allows: how many searches, how long, how large, who. The settings are read only here."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from laion_assets.service.picture import PictureLimits
from laion_assets.settings import Settings


@dataclass(frozen=True)
class Limits:
    """The limits of one application. `pictures` is None if pictures by URL are turned off."""

    searches: int = 4
    queue: int = 64
    seconds: float = 30.0
    idle_seconds: float = 5.0
    body_bytes: int = 16 * 2**20
    body_seconds: float = 30.0
    token: str = ""
    cors_origins: tuple[str, ...] = ()
    pictures: PictureLimits | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits by the LAION_SERVE_* settings."""
        private = tuple(ipaddress.ip_network(network) for network in settings.serve_private_networks)
        return cls(
            searches=settings.serve_searches,
            queue=settings.serve_queue,
            seconds=settings.serve_seconds,
            idle_seconds=settings.serve_idle_seconds,
            body_bytes=settings.serve_body_bytes,
            token=settings.serve_token.get_secret_value() if settings.serve_token else "",
            cors_origins=settings.serve_cors_origins,
            pictures=PictureLimits(private=private) if settings.serve_picture_urls else None,
        )
