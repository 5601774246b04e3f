"""What can go wrong between us and the API server, as one small tree; HTTP becomes it in `from_status` and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ApiError(Exception):
    """The API server refused a request. `code` is the HTTP status, `reason` the server's word for it."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class NotFound(ApiError):
    """There is no such object (404)."""


class Conflict(ApiError):
    """The object is not as the request assumed: another version, another uid, or fields that another manager owns (409)."""


class AlreadyExists(Conflict):
    """An object of this name exists (409)."""


class Gone(ApiError):
    """The resourceVersion is too old for the server's history (410): list again."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One violated rule of an `Invalid` object."""

    field: str
    message: str


class Invalid(ApiError):
    """The object breaks its schema or a rule (422); `causes` name the fields."""

    def __init__(self, message: str, *, causes: tuple[Cause, ...] = (), **rest: Any) -> None:
        super().__init__(message, **rest)
        self.causes = causes


class Forbidden(ApiError):
    """RBAC, an admission policy or a quota says no (403)."""


class Unauthorized(ApiError):
    """The server does not know who we are (401)."""


class NotHeld(ApiError):
    """The Lease by which we write is not surely ours any more: nothing was sent."""


class TooManyRequests(ApiError):
    """The server asks us to slow down (429); `retry_after_seconds` is the least wait when it named one."""


class Unreachable(ApiError):
    """No answer (code 0), or an answer that says that the server can't now (5xx). The request may or may not have been carried out."""


_BY_CODE: dict[int, type[ApiError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 429: TooManyRequests}


def from_status(code: int, status: Mapping[str, Any], retry_after: str | None = None) -> ApiError:
    """The error for an HTTP answer with `code` whose body is the Kubernetes `Status` in `status` (may be empty)."""
    reason = str(status.get("reason") or "")
    details = status.get("details") or {}
    message = str(status.get("message") or reason or f"the API server answered {code}")
    wait = _seconds(retry_after) or _seconds(details.get("retryAfterSeconds"))
    if code == 422:
        causes = tuple(Cause(str(c.get("field", "")), str(c.get("message", ""))) for c in details.get("causes") or ())
        return Invalid(message, causes=causes, code=code, reason=reason, retry_after_seconds=wait)
    if code == 409 and reason == "AlreadyExists":
        return AlreadyExists(message, code=code, reason=reason, retry_after_seconds=wait)
    kind = _BY_CODE.get(code, Unreachable if code >= 500 else ApiError)
    return kind(message, code=code, reason=reason, retry_after_seconds=wait)


def _seconds(value: object) -> float | None:
    try:
        seconds = float(str(value))
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
