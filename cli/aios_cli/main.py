"""The command `aiosctl`: each group of commands lives in a module of its own and is registered here."""

import click

from aios_cli.bench import bench
from aios_cli.context import context
from aios_cli.diff import diff
from aios_cli.explain import explain
from aios_cli.lint import lint
from aios_cli.local import local
from aios_cli.top import top


@click.group()
def main() -> None:
    """KubeAIOS from the command line."""


main.add_command(top)
main.add_command(explain)
main.add_command(lint)
main.add_command(diff)
main.add_command(context)
main.add_command(local)
main.add_command(bench)
