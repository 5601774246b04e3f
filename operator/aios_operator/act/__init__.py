"""What the operator does to the world: `executor` is the only writer to the API, `report` tells people by log lines and events."""
