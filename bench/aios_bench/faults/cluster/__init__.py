"""A local cluster with Agents that go on, and what befalls it."""
