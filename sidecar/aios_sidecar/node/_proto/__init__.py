"""The kubelet's two gRPC interfaces, as modules generated from the `.proto` files beside them.

`python -m aios_sidecar.node._proto.generate` writes them anew; with `--check` it only compares.
"""
