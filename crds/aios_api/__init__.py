"""The API: what users write and what they read back, once, for everyone.

Pydantic models (`agent`, `runtime`, `quota`, `binding`) and the shape of a pod template (`template`) are the only source; `schema` turns
them into structural schemas, `crd` into CustomResourceDefinitions, `generate` into the files of `crds/`, of the chart and of the reference.
Shared names, reasons and quantities live here too, and what an agent may reach (`egress`, `addresses`). Nothing here talks to anything, and
everyone else may import it.
"""
