#!/usr/bin/env python3
"""Asks a model that speaks as OpenAI's chat completions do, by the proxy that the environment names. Standard library only.

chat BASE_URL TEXT     such as: chat http://model.models.svc.cluster.local "Who are you?"
"""

import json
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 10


def chat(base, text):
    """Print the answer, or why there is none."""
    body = {"model": "parrot", "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(base.rstrip("/") + "/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - what the user names
            print(json.load(answer)["choices"][0]["message"]["content"])
            return 0
    except urllib.error.HTTPError as refused:
        said = refused.read().decode(errors="replace")
        try:
            problem = json.loads(said)
            print(f"{refused.code} {problem['reason']}: {problem['detail']}\nnext step: {problem['nextStep']}")
        except (ValueError, KeyError):
            print(f"{refused.code} {said}")
    except OSError as failed:
        print(f"{base}: {failed}")
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(chat(*sys.argv[1:]))
