"""What can go wrong between an agent's code and its endpoint."""

from dataclasses import dataclass


class AiosError(Exception):
    """Every error of this package."""


class NotAnAgentError(AiosError):
    """The environment names no endpoint: this code does not run in a container of an Agent."""


class UnreachableError(AiosError):
    """Nothing answers at the endpoint."""


class UnexpectedAnswerError(AiosError):
    """What answers is not the endpoint of this version."""


@dataclass(eq=False)
class RefusedError(AiosError):
    """The endpoint refused the request, and says why (RFC 9457)."""

    status: int
    reason: str
    """A word that programs can compare, such as EgressDenied."""
    detail: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.status}): {self.detail} {self.next_step}".rstrip()
