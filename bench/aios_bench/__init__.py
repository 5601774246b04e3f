"""Benches behind `aiosctl bench NAME`: each measures one promise on the real thing and returns figures with their samples.

A bench is a function `bench(options) -> Result`, registered under the entry point group `aios.benches`. It finds its
cluster through the kubeconfig that it is given, leaves the cluster as it was, and never judges its own figures.
"""
