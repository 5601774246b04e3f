#!/usr/bin/env python3
"""An agent that talked for 200 turns and is then asked for something said early: what would three strategies show a model? Standard
library only.

remember [BUDGET]     tokens of a window; 500 without one
"""

import json
import os
import random
import sys
import textwrap
import urllib.request

TURNS = 200
QUESTION = "Who has the spare key of the lab?"
FACT_AT, FACT = 7, "By the way, I gave Dr. Keller the spare key of lab 4 on Monday, until 12 March."
STRATEGIES = ("sliding", "importance", "question")
COLUMN = 34

# The agent's own endpoint is on the loopback of its pod: a proxy would be asked for somebody else's.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

SMALL_TALK = (
    ("How is the {thing} coming along?", "The {thing} is nearly done, two more {unit}."),
    ("Did you see the mail about the {thing}?", "I did. We should answer before the weekend."),
    ("The {thing} was late again today.", "That happens each time. I'll ask what is wrong."),
    ("Shall we meet about the {thing}?", "Fine with me, after lunch."),
    ("I'm tired of the {thing}.", "Take a break, it can wait."),
)
THINGS = ("report", "sensor", "delivery", "poster", "budget", "printer", "review", "course", "schedule")
UNITS = ("pages", "hours", "steps", "rounds")


def talk():
    """The turns of Maria and Tom, the same each time, with the fact in an early one."""
    chance = random.Random(7)  # noqa: S311 - small talk
    turns = []
    for _ in range(0, TURNS, 2):
        said, answered = chance.choice(SMALL_TALK)
        words = {"thing": chance.choice(THINGS), "unit": chance.choice(UNITS)}
        turns += [("Maria", said.format(**words)), ("Tom", answered.format(**words))]
    turns[FACT_AT - 1] = ("Maria", FACT)
    return [{"role": "user", "author": author, "content": text, "session": "talk"} for author, text in turns]


def call(path, body):
    request = urllib.request.Request(os.environ["AIOS_URL"] + path, json.dumps(body).encode(), {"Idempotency-Key": "remember"})  # noqa: S310 - http, on loopback
    with DIRECT.open(request, timeout=10) as answer:
        return json.load(answer)


def window(strategy, budget):
    """The window as text, and what it cost."""
    asked = {"budget": budget, "model": "gpt-4o", "session": "talk"}
    if strategy == "question":
        return call("/v1/context/window", {**asked, "strategy": {"type": "sliding"}, "query": QUESTION})
    return call("/v1/context/window", {**asked, "strategy": {"type": strategy}})


def line_of(receipt, seq):
    """In or out, and why."""
    for where in ("in", "out"):
        for line in receipt[where]:
            if seq in (line.get("items") or ()) or (line.get("first") or seq + 1) <= seq <= (line.get("last") or 0):
                return where, line
    return "out", {"reason": "older than what was looked at"}


def column(strategy, answer, fact):
    where, line = line_of(answer["receipt"], fact)
    shown = sum(len(each.get("items") or range(each["first"], each["last"] + 1)) for each in answer["receipt"]["in"])
    scores = ", ".join(f"{name} {value:.2f}" for name, value in (line.get("scores") or {}).items())
    return [
        strategy if strategy != "question" else "sliding, and the question",
        f"{answer['tokens']['used']} of {answer['tokens']['budget']} tokens",
        f"{shown} of {TURNS} turns",
        f"the answer: {where.upper()}",
        *textwrap.wrap(f"because: {line['reason']}", COLUMN - 2),
        *textwrap.wrap(scores, COLUMN - 2),
    ]


def main(arguments):
    if len(arguments) > 1 or not all(each.isdigit() for each in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    budget = int(arguments[0]) if arguments else 500
    added = call("/v1/context/items", {"items": talk()})
    fact = added["first"] + FACT_AT - 1
    print(f"{TURNS} turns are in the context; turn {FACT_AT}: {FACT}")
    print(f"asked: {QUESTION}")
    columns = [column(strategy, window(strategy, budget), fact) for strategy in STRATEGIES]
    for row in range(max(map(len, columns))):
        print("  ".join((texts[row] if row < len(texts) else "").ljust(COLUMN) for texts in columns).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
