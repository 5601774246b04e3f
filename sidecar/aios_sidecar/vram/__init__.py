"""VRAM of this node: which GPUs there are and how much of each can be given away, as the driver library tells it.

Everything here speaks NVML through the unmodified nvidia-ml-py. Which library answers is the loader's choice; a fake one needs no switch.
"""
