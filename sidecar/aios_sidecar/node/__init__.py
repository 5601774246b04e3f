"""The node agent: the room for privilege.

It publishes what the node has (ResourceSlices), prepares claims for the kubelet (DRA plugin, CDI, state files), answers the OCI
hook (fence and listener in the pod's network namespace), hands the listeners to the gateway, and reports facts in
`AgentRuntime.status`. It parses nothing that an agent wrote.
"""
