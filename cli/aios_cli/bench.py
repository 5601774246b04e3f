"""`aiosctl bench NAME`: the one interface of all benches."""

from importlib.metadata import entry_points
from pathlib import Path

import click

GROUP = "aios.benches"


@click.command()
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="A small run that only shows that the bench works.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write figures, method, machine, versions and samples here.",
)
@click.option(
    "--agents",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="How many Agents at once (burst), and on simulated nodes (soak).",
)
@click.option(
    "--kwok-nodes", type=click.IntRange(1, 5000), default=25, show_default=True, help="On how many simulated nodes (burst, soak)."
)
@click.option("--dataset", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Dialogues with questions (context).")
@click.option("--budgets", default="500,2000,8000", show_default=True, help="Tokens of windows, with commas between (context).")
@click.option(
    "--embeddings",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory with tokenizer.json and a table of vectors in .safetensors (context).",
)
@click.option("--runs", type=click.IntRange(1, 20), default=1, show_default=True, help="How often; figures are medians (burst).")
@click.option("--pods", type=click.IntRange(1, 100_000), default=20_000, show_default=True, help="How many pods of others (foreign).")
@click.option("--scenario", help="Only this one; without it, every one, and what is missed on the cluster (faults).")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Which faults there are when (faults, soak).")
@click.option("--size", type=click.Choice(["small", "long"]), default="small", show_default=True, help="Of each scenario (faults).")
@click.option("--minutes", type=click.FloatRange(1, 10_000), default=30, show_default=True, help="How long (soak).")
@click.option("--note", default="", help="What else a reader must know of the machine at that time, for the JSON.")
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Default: the local cluster's.")
def bench(
    name: str | None,
    quick: bool,
    json_path: Path | None,
    agents: int,
    kwok_nodes: int,
    dataset: Path | None,
    budgets: str,
    embeddings: Path | None,
    runs: int,
    pods: int,
    scenario: str | None,
    seed: int,
    size: str,
    minutes: float,
    note: str,
    kubeconfig: Path | None,
) -> None:
    """Measure one promise on the real thing. Without NAME: list the benches."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name is None:
        click.echo("\n".join(sorted(found)))
        return
    if name not in found:
        raise click.UsageError(f"NAME must be one of: {', '.join(sorted(found))}.")
    try:
        from aios_bench.result import Options, write
        from aios_kube.errors import ApiError
        from aios_localcluster.cluster import default_kubeconfig

        run = found[name].load()
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f"Benches run from a source checkout (make setup); {missing.name} is not part of the installed package."
        ) from missing
    try:
        where = kubeconfig or default_kubeconfig()
        options = Options(
            where, quick, agents, kwok_nodes, dataset, _budgets(budgets), embeddings, runs, pods, scenario, seed, size, minutes
        )
        result = run(options)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    except (ApiError, TimeoutError) as problem:
        raise click.ClickException(
            f"{problem or 'the cluster took too long'}. The bench needs a cluster with KubeAIOS, such as the one of `make demo`."
        ) from problem
    for line in result.table:
        click.echo(line)
    for figure, value in result.figures.items():
        click.echo(f"{figure:<36} {value:g}")
    if json_path is not None:
        write(name, result, json_path, note)
        click.echo(f"Written to {json_path}")
    if result.broken:
        raise click.ClickException(result.broken)


def _budgets(text: str) -> tuple[int, ...]:
    try:
        budgets = tuple(int(part.replace("_", "")) for part in text.split(","))
    except ValueError:
        budgets = ()
    if not budgets or min(budgets) < 1:
        raise click.UsageError("--budgets must be whole numbers of at least 1 with commas between, such as 500,2000,8000.")
    return budgets
