"""The way out of an agent's pod: a proxy that judges, then resolves, then checks every address, then dials exactly the checked one.

`agent.py` holds an agent's policy and everything that it has open outside (`upstream.py`), so that a change of the policy ends what it
forbids. `passage.py` is one verdict with all that came of it.
`target.py` reads where a request wants to go; `names.py` resolves and `dial.py` connects. `connect.py` answers CONNECT: `hello.py` reads
the server name in the tunnel's first bytes, `tunnel.py` carries the rest. `forward.py` passes plain HTTP on, one request after the other.
`audit.py` writes down each verdict.
Matching itself is in `aios_api.egress`, where the operator and the CLI share it.
"""
