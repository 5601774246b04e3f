"""The operator, or a node agent, and an API server, in memory or real, with whatever disturbs them in between."""
