"""Faults: each scenario injects them into what KubeAIOS runs, and counts what was lost, left over or doubled.

`scenario` says what one is, `registry` has all of them; tests/faults runs each in its small form, and so does `aiosctl bench faults`.
"""
