"""The context of an agent: an append-only, numbered log of what happened, and windows of it within a budget.

The log is the truth; search index, windows, tiers and summaries are derived from it and can be made again. `items` has what is kept,
`reader` how it is read, `store` what a back end must do. This room knows nothing of Kubernetes and nothing of the gateway that serves it.
"""
