#!/usr/bin/env python3
"""A model that is none: it speaks as OpenAI's chat completions do and answers by rule. Standard library only.

model [PORT]     8000 without one
"""

import http.server
import json
import sys

LONGEST_BYTES = 1 << 20


class Chat(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": "parrot", "object": "model", "created": 0, "owned_by": "quickstart"}]})
        else:
            self.answer(404, {"error": {"message": f"{self.path} is not here", "type": "invalid_request_error"}})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        try:
            asked = json.loads(self.rfile.read(min(length, LONGEST_BYTES)))
            last = asked["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            self.answer(400, {"error": {"message": "messages must have one with content", "type": "invalid_request_error"}})
            return
        message = {"role": "assistant", "content": f"You asked: {last}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self.answer(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "parrot", "choices": [choice], "usage": usage})

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    print(f"a model listens at port {port}", flush=True)
    http.server.ThreadingHTTPServer(("", port), Chat).serve_forever()
