"""A soak: Agents come and go for a long time while faults are injected; what grows, and what was lost.

`agents` are who comes and goes, `disturb` has the faults, `watch` sees memory, descriptors and who speaks twice, `bench` runs all of it.
"""
