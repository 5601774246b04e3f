"""The agent's context: append what happens, ask for a window of it within a budget, search, pin, erase.

    from aios_sdk.context import Context, user

    with Context() as context:
        context.append(user("Ann wants the report by Tuesday."))
        window = context.window(budget=8000, model="gpt-4o", format="openai", query="What does Ann want?")
        answer = client.chat.completions.create(model="gpt-4o", messages=window.messages)

`AsyncContext` is the same for asyncio. Both take their endpoint from the environment, as all of this package.
"""

from aios_sdk.context.clients import AsyncContext, Context
from aios_sdk.context.items import Item, NewItem, assistant, note, observation, summary, system, tool_call, tool_result, user
from aios_sdk.context.results import Appended, DescribedItem, Description, ErasureReceipt, Found, Page, Session, Snapshot, Window

__all__ = [
    "Appended",
    "AsyncContext",
    "Context",
    "DescribedItem",
    "Description",
    "ErasureReceipt",
    "Found",
    "Item",
    "NewItem",
    "Page",
    "Session",
    "Snapshot",
    "Window",
    "assistant",
    "note",
    "observation",
    "summary",
    "system",
    "tool_call",
    "tool_result",
    "user",
]
