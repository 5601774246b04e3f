"""Writes the modules of the `.proto` files anew, or (`--check`) says which of the committed ones differ from what would be written."""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
"""Imports of the generated modules start here."""


def generated(out: Path) -> dict[str, bytes]:
    """The generated files by name, made in the empty folder `out`."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a tool of development, not of the node agent

    sources = sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*.proto"))
    well_known = str(Path(protoc.__file__).parent / "_proto")
    flags = [
        *(f"--{plugin}_out={out}" for plugin in ("python", "grpc_python")),
        *(f"--{plugin}_out=quiet:{out}" for plugin in ("mypy", "mypy_grpc")),
    ]
    path = [f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *path, *flags, *(str(ROOT / source) for source in sources)]) != 0:
        raise SystemExit("protoc failed; the message above says why")
    return {path.name: path.read_bytes() for path in sorted((out / HERE.relative_to(ROOT)).iterdir())}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        files = generated(Path(folder))
    if arguments != ["--check"]:
        for name, content in files.items():
            (HERE / name).write_bytes(content)
        return 0
    differing = [name for name, content in files.items() if not (HERE / name).is_file() or (HERE / name).read_bytes() != content]
    for name in differing:
        print(f"{HERE / name} is not what its .proto file says: run python -m aios_sidecar.node._proto.generate")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
