"""What the rooms of the sidecar know of one another; `node`, `vram` and `gateway` import this, and never each other.

`gpus` and `agents` are what is spoken of, `link` what node agent and gateway say, `worker` what node agent and the worker of a GPU say;
`packets` is the form of both, `clock` the time in them. `aios_sidecar.handover` carries packets and listeners.
"""
