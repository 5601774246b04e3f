"""The operator: it decides which Agent gets which part of which GPU, writes orders, claims and pods, and explains itself.

Observe, decide, act, report. `observe` keeps frozen views of what the cluster holds, `decide` turns them into effects and is pure, `act`
performs effects and tells people; `loop` connects the three. `main` puts the parts together, `settings` says what may be set.
"""
