"""The service's settings: those of the kit, and its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from impetus_service.kit import settings as kit
from impetus_service.kit.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SETTINGS", "Settings", "SettingsError"]

SAMESITE = ("strict", "lax", "none")  # none: also for pages of other sites, whose origins CORS_ORIGINS has to name


@dataclass(frozen=True)
class Settings(kit.Settings):
    """What the operator may set; the environment variables have these names in capitals."""

    LIMITS: ClassVar = {
        **kit.Settings.LIMITS,
        "audit_log_retention_days": (1, 36_500),
        "job_result_days": (1, 36_500),
        "session_hours": (1, 8760),
        "login_attempts": (1, 1000),
        "login_window_minutes": (1, 1440),
        "sessions_per_user": (1, 1000),
    }

    session_hours: int = 12  # from login until a session expires
    login_attempts: int = 10  # failed ones from an address in login_window_minutes; in all, ten times as many
    login_window_minutes: int = 15
    sessions_per_user: int = 50  # the oldest end for new ones
    cookie_samesite: str = "strict"
    audit_log_retention_days: int = 90  # of audit_logs and data_access_logs; then maintenance deletes them
    job_result_days: int = 7  # after the end of a job; then maintenance deletes it with its file

    @classmethod
    def read(cls, environment: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
        """As the kit's."""
        samesite = environment.get("COOKIE_SAMESITE", "").strip().lower() or cls.cookie_samesite
        if samesite not in SAMESITE:
            problems.append(f"COOKIE_SAMESITE={samesite!r}: must be one of {', '.join(SAMESITE)}")
        return super().read(environment, problems) | {"cookie_samesite": samesite}


SETTINGS = web.AppKey("impetus.settings", Settings)
