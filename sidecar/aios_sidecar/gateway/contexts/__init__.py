"""Contexts over HTTP: `models` is what is said on the wire, `desk` brings requests to the store and back, `answers` are the routes.

The store itself is `aios_sidecar.context`, which knows nothing of HTTP.
"""
