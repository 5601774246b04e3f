"""An agent that speaks with its context."""

import json


class Talk:
    """Requests of one agent, one connection each."""

    def __init__(self, served) -> None:
        self.served = served

    async def ask(self, method: str, target: str, body: object = None, headers: str = "") -> tuple[int, dict]:
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: aios\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n"
        response = await self.served.exchange(head.encode() + content, "socket")
        head, _, rest = response.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(rest)

    async def get(self, path: str) -> dict:
        status, answer = await self.ask("GET", f"/v1/context{path}")
        assert status == 200, answer
        return answer

    async def post(self, path: str, body: object, headers: str = "") -> dict:
        status, answer = await self.ask("POST", f"/v1/context{path}", body, headers)
        assert status in (200, 201), answer
        return answer

    async def refused(self, path: str, body: object, headers: str = "") -> tuple[int, str, str]:
        status, answer = await self.ask("GET" if body is None else "POST", f"/v1/context{path}", body, headers)
        assert set(answer) == {"type", "title", "status", "detail", "reason", "nextStep"}, answer
        return status, answer["reason"], answer["detail"]


def user(text: str, **fields: object) -> dict:
    return {"role": "user", "content": text, **fields}
