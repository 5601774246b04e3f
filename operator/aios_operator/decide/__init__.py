"""The operator's decisions, pure: frozen views in, typed effects out; no clock, no client, no chance.

`agent.plan_agent(state, now)` brings one Agent to what its spec says, as far as its order (`AgentRuntime.spec`) goes, and reports;
`cluster.plan_cluster(view, now)` gives places to those who need one and writes orders; `namespace.plan_namespace` keeps the NetworkPolicy
of a namespace. `attempt` says how an attempt stands, `placement` is the arithmetic of places, `conditions` what a person reads.
"""
