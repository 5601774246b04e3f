"""What a context refuses, and why. Every message says what must be true; nothing that was kept is lost by any of these."""


class ContextError(Exception):
    """Every refusal of a context, beside `InvalidItem`."""


class NotThere(ContextError):
    """There is no such item or session."""


class Conflict(ContextError):
    """The request contradicts one before it: an idempotency key that was used for something else, a session that exists."""


class LimitReached(ContextError):
    """A limit of this agent's context leaves no room, and retention may remove nothing that would make some."""


class Unwritable(ContextError):
    """The disk takes nothing now: it is full, read only or failing. What is kept stays readable."""


class Damaged(ContextError):
    """The file of this context was damaged and set aside. Nothing takes its place until someone restores a snapshot or erases it."""


class Fenced(ContextError):
    """A later attempt of this agent writes, or will, perhaps on another node: this one may not any more."""


class Busy(ContextError):
    """Another program holds the store's directory, or this context is being closed. Try again."""


class InvalidWindow(ContextError):
    """The call for a window asks for what can't be; the message names the field."""


class BudgetTooSmall(ContextError):
    """What must be in the window is more than its budget: what is pinned stays, whatever else is left out."""


class TooMuch(ContextError):
    """What came since the snapshot does not fit into the tail of a move: it is made from a newer snapshot."""
