"""Contexts on their way to another node: a channel between two gateways that know each other's certificates, a source that gives what an
order names to whom it names, and a mover that fetches what this node's orders name.

No certificate authority: each gateway makes a key at its start, which never leaves its memory, and its node agent publishes the
certificate where only that node's agent may write. The order names both ends.
"""
