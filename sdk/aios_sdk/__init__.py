"""What an agent's own code imports: who am I, where do I run, which part of a GPU is mine.

The answers come from the endpoint that every container of an Agent has; nothing needs to be configured.
"""

from aios_sdk.agent import GPU, Agent, Condition, Identity, Share
from aios_sdk.client import whoami, whoami_async
from aios_sdk.errors import AiosError, NotAnAgentError, RefusedError, UnexpectedAnswerError, UnreachableError

__all__ = [
    "GPU",
    "Agent",
    "AiosError",
    "Condition",
    "Identity",
    "NotAnAgentError",
    "RefusedError",
    "Share",
    "UnexpectedAnswerError",
    "UnreachableError",
    "whoami",
    "whoami_async",
]
