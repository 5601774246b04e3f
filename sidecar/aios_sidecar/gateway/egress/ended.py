"""How what was let through came to its end: the reasons that the audit and the metrics give beside those of a refusal."""

from enum import StrEnum


class Ended(StrEnum):
    Done = "Done"
    """The response is complete."""
    Closed = "Closed"
    """Both sides of a tunnel have ended it."""
    Idle = "Idle"
    """Nothing came through the tunnel for too long."""
    TooLong = "TooLong"
    """The tunnel was open for as long as one may be."""
    Broken = "Broken"
    """One of the two connections failed."""
    ClientGone = "ClientGone"
    """The agent did not wait for its response."""
    PolicyChanged = "PolicyChanged"
    """The policy in force does not allow it any more."""
    Stopped = "Stopped"
    """The agent or the gateway has ended, or the gateway is mute."""
