"""What is in the images beside our own packages: the locks by which their libraries are installed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def libraries(program: str) -> set[str]:
    lock = (ROOT / "requirements" / f"{program}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))


def test_the_gateway_can_read_a_model_that_it_is_given_and_fetch_none():
    found = libraries("gateway")
    assert {"numpy", "safetensors", "tokenizers"} <= found
    assert not found & {"huggingface-hub", "httpx", "httpx2", "requests", "urllib3", "aiohttp", "kubernetes"}
