"""Where the rooms of the sidecar meet: programs that put together what knows nothing of one another."""
