"""`aiosctl bench egress`: what the way out costs, without a cluster.

`house.py` puts a gateway of its own process behind the node agent's real link, with as many agents as are wanted; `worker.py` is that
process; `load.py` is what is beside it in processes of their own: hosts on loopback, and clients; `bypasses.py` tries to get past it;
`bench.py` measures. Everything is on loopback and ends by itself.
"""
