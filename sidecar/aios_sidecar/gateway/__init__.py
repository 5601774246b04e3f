"""The gateway: where agents speak and are heard. It parses everything that an agent writes, and may nothing.

Each agent has listeners of its own (a Unix socket, a loopback port in its network namespace), which the node agent opens and hands over;
who speaks is known by the listener alone. The gateway runs as a user of its own, without privilege, API token or Kubernetes client.
"""
