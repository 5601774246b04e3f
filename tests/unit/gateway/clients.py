"""Programs that agents use, each asking for the same: what a host that is allowed answers, by TLS and plainly, and that another is refused.

Each finds its proxy in the standard variables and the authority that it is to trust where its kind looks for it. It prints one JSON object:
`{"tls": …, "plain": …, "refused": true}`. The same programs run here and in a cluster.
"""

from collections.abc import Mapping

GREETING = "hello from outside"
COMPLETION = "said by a model"

HTTPX = """
import httpx, json, os
def refused(url):
    try:
        httpx.get(url)
    except httpx.ProxyError as error:
        return "403" in str(error)
print(json.dumps({
    "tls": httpx.get(os.environ["TLS_URL"] + "/hello").text,
    "plain": httpx.get(os.environ["PLAIN_URL"] + "/hello").text,
    "refused": refused(os.environ["OTHER_URL"]),
}))
"""

REQUESTS = """
import json, os, requests
def refused(url):
    try:
        requests.get(url)
    except requests.exceptions.ProxyError as error:
        return "403" in str(error)
print(json.dumps({
    "tls": requests.get(os.environ["TLS_URL"] + "/hello").text,
    "plain": requests.get(os.environ["PLAIN_URL"] + "/hello").text,
    "refused": refused(os.environ["OTHER_URL"]),
}))
"""

OPENAI = """
import json, openai, os
def ask(base, **options):
    client = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], **options)
def refused(base):
    try:
        ask(base)
    except openai.APIConnectionError as error:
        return "403" in str(error.__cause__)
streamed = ask(os.environ["PLAIN_URL"], stream=True)
print(json.dumps({
    "tls": ask(os.environ["TLS_URL"]).choices[0].message.content,
    "plain": "".join(chunk.choices[0].delta.content or "" for chunk in streamed),
    "refused": refused(os.environ["OTHER_URL"]),
}))
"""

CURL = """
import json, os, subprocess
def curl(url):
    return subprocess.run(["curl", "--silent", "--show-error", "--fail", url], capture_output=True, text=True)
other = curl(os.environ["OTHER_URL"])
print(json.dumps({
    "tls": curl(os.environ["TLS_URL"] + "/hello").stdout,
    "plain": curl(os.environ["PLAIN_URL"] + "/hello").stdout,
    "refused": other.returncode != 0 and "403" in other.stderr,
}))
"""

GIT = """
import json, os, pathlib, subprocess, tempfile
def clone(base):
    target = tempfile.mkdtemp()
    done = subprocess.run(["git", "clone", "--quiet", base + "/repo.git", target], capture_output=True, text=True)
    file = pathlib.Path(target, "greeting")
    return file.read_text() if file.exists() else done.stderr
other = clone(os.environ["OTHER_URL"])
print(json.dumps({"tls": clone(os.environ["TLS_URL"]), "plain": clone(os.environ["PLAIN_URL"]), "refused": "403" in other}))
"""

NODE = """
import json, os, subprocess
code = '''
const { ProxyAgent, fetch } = require('undici');
const dispatcher = new ProxyAgent(process.env.https_proxy);
const get = async (url) => (await fetch(url, { dispatcher })).text();
(async () => {
  let refused = false;
  try { await get(process.env.OTHER_URL); } catch (error) { refused = true; }
  console.log(JSON.stringify({ tls: await get(process.env.TLS_URL + '/hello'), plain: process.env.GREETING, refused }));
})();
'''
given = {"NODE_PATH": "/usr/share/nodejs", **os.environ}
print(subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True, env=given).stdout)
"""

CLIENTS = {"httpx": HTTPX, "requests": REQUESTS, "openai": OPENAI, "curl": CURL, "git": GIT, "node": NODE}
ANSWERS = {name: COMPLETION if name == "openai" else GREETING for name in CLIENTS}


def environment(proxy: str, authority: str) -> Mapping[str, str]:
    """The proxy as agents have it, and an authority in a file, named as each kind of client wants it."""
    return {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost,::1"),
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"), authority),
        "GREETING": GREETING,
        "GIT_TERMINAL_PROMPT": "0",
    }


SERVER = """
import http.server, json, os, pathlib, ssl, subprocess, sys, tempfile, threading

root = pathlib.Path(tempfile.mkdtemp())
(root / "hello").write_text(GREETING)
chunk = lambda delta, end=None: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                                 "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}

class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def __init__(self, *given):
        super().__init__(*given, directory=str(root))
    def log_message(self, *given):
        pass
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("stream"):
            pieces = [chunk({"content": word}) for word in (COMPLETION[:5], COMPLETION[5:])] + [chunk({}, "stop")]
            content = "".join(f"data: {json.dumps(piece)}\\n\\n" for piece in pieces) + "data: [DONE]\\n\\n"
            kind = "text/event-stream"
        else:
            message = {"role": "assistant", "content": COMPLETION}
            content = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                                  "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
            kind = "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

def repository():
    who = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    git = lambda *given: subprocess.run(["git", "-C", str(root / "work"), *who, *given], check=True)
    (root / "work").mkdir()
    git("init", "--quiet")
    (root / "work" / "greeting").write_text(GREETING)
    git("add", "greeting")
    git("commit", "--quiet", "-m", "a greeting")
    git("clone", "--quiet", "--bare", ".", str(root / "repo.git"))
    subprocess.run(["git", "-C", str(root / "repo.git"), "update-server-info"], check=True)

def serve(port, context=None):
    server = http.server.ThreadingHTTPServer((sys.argv[1], port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]

repository()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
print(json.dumps({"tls": serve(int(sys.argv[3]), context), "plain": serve(int(sys.argv[4]))}), flush=True)
threading.Event().wait()
"""


def server_code() -> str:
    """`python -c CODE ADDRESS CERTIFICATE TLS_PORT PLAIN_PORT`: a host for all of these clients, until it is killed."""
    return f"GREETING, COMPLETION = {GREETING!r}, {COMPLETION!r}\n{SERVER}"
