"""What `aiosctl top` shows of a cluster, on objects that a real one had."""

import io

import pytest
from click.testing import CliRunner
from rich.console import Console

from aios_api import names
from aios_cli.drawing import draw
from aios_cli.main import main
from aios_cli.picture import Picture, as_json
from aios_cli.top import look as read
from aios_kube import resources
from aios_kube.errors import Forbidden
from aios_kube.fake import FakeCluster
from unit.cli.objects import RECORDED, agents, look, quota, recorded, runtimes

GIB = 1 << 30


def text(shown: Picture, width: int = 110, height: int | None = None, problem: str | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(draw(shown, width, height, problem))
    return console.file.getvalue()  # type: ignore[attr-defined]


def bar(shown: Picture, model: str, width: int = 110) -> str:
    line = next(line for line in text(shown, width).splitlines() if model in line)
    return "".join(character for character in line if character in "█▓▒·")


def test_a_bar_shows_what_each_agent_has_booked_of_the_capacity():
    cells = bar(look(), "L40S")
    assert len(cells) == 48
    assert (cells.count("█"), cells.count("▓"), cells.count("·")) == (24, 16, 8), "24 and 16 of 48 GiB"
    assert set(bar(look(), "H100")) == {"·"}
    assert "█ researcher 24Gi  ▓ coder 16Gi" in text(look())
    assert "40 of 48 GiB  83%" in text(look())


def test_holders_of_other_namespaces_are_named_with_theirs():
    assert "█ quickstart/researcher 24Gi" in text(look(namespace="default", agents=[]))
    assert "no Agents in namespace default; -A shows all namespaces" in text(look(namespace="default", agents=[]))


def test_who_holds_a_sliver_still_has_a_cell_and_bars_are_never_longer_than_the_gpu():
    claims = [recorded("claims", "researcher-1"), recorded("claims", "coder-1")]
    for claim, memory in zip(claims, ("1Mi", "1Mi"), strict=True):
        for result in claim["status"]["allocation"]["devices"]["results"]:
            if result["request"] == names.REQUEST_GPU:
                result["consumedCapacity"]["memory"] = memory
    assert bar(look(claims=claims, agents=[]), "L40S")[:3] == "█▓·"
    for claim in claims:
        for result in claim["status"]["allocation"]["devices"]["results"]:
            if result["request"] == names.REQUEST_GPU:
                result["consumedCapacity"]["memory"] = "40Gi"
    assert len(bar(look(claims=claims, agents=[]), "L40S")) == 48, "more is booked than there is: the slice shrank"


def test_an_order_that_is_not_booked_yet_counts_and_says_so():
    shown = look(claims=[recorded("claims", "coder-1")], agents=agents("researcher", "coder"))
    (gpu,) = [gpu for gpu in shown.gpus if gpu.holders]
    assert [(h.name, h.booked) for h in gpu.holders] == [("researcher", False), ("coder", True)]
    assert gpu.booked_mebibytes == 40 * 1024
    assert "researcher 24Gi (ordered)" in text(shown)


def test_below_what_is_booked_stands_how_much_of_it_is_used_share_by_share():
    shown = look(runtimes=runtimes(researcher="12Gi", coder="1Mi"))
    (line,) = [line for line in text(shown).splitlines() if "in use " in line and "of 40" in line]
    assert "".join(c for c in line if c in "█▓▒·") == "█" * 12 + "·" * 12 + "▓" + "·" * 15, "a sliver that is used is seen"
    assert line.index("█") == next(line for line in text(shown).splitlines() if "L40S" in line).index("█")
    assert "█ researcher 24Gi, uses 12  ▓ coder 16Gi, uses 0.0" in text(shown)
    assert "40 GiB of 128 GiB booked, 12.0 GiB in use" in text(shown)


def test_who_took_more_than_its_share_is_said_to_have():
    agent = recorded("agents", "coder")
    said = {
        "type": "WithinShare",
        "status": "False",
        "reason": "ShareExceeded",
        "message": "",
        "lastTransitionTime": "2026-11-23T05:49:00Z",
    }
    agent["status"]["conditions"].append(said)
    shown = look(agents=[agent, recorded("agents", "researcher")])
    rows = {line.split()[1]: line for line in text(shown).splitlines() if line.startswith("ready")}
    assert rows["coder"].endswith("Ready, took more than its share")
    assert rows["researcher"].endswith("Ready")
    assert [each["exceededShare"] for each in as_json(shown)["agents"]] == [True, False]


def test_what_nobody_has_read_is_not_shown_as_idle():
    assert "in use" not in text(look(runtimes=runtimes()))
    (line,) = [line for line in text(look(runtimes=runtimes(coder="0"))).splitlines() if "in use " in line and "of 40" in line]
    assert "".join(c for c in line if c in "█▓▒·") == "·" * 16, "only coder's cells"


def test_a_node_that_speaks_of_an_earlier_claim_says_nothing_of_this_one():
    old = runtimes(researcher="12Gi")
    for each in old:
        each["status"]["claimUID"] = "of-an-attempt-before"
    assert all(holder.used_mebibytes is None for gpu in look(runtimes=old).gpus for holder in gpu.holders)


def test_quotas_show_what_is_held_who_waits_and_what_was_lowered_below_that():
    research = quota("research", {"memory": {"nominal": "48Gi"}, "agents": 20}, reserved=("40Gi", 4), used=("40Gi", 4), waiting=("16Gi", 1))
    lowered = quota("lab", {"memory": {"nominal": "8Gi"}}, reserved=("12Gi", 3))
    open_end = quota("ops", {"agents": 3}, reserved=("4Gi", 1))
    broken = quota("typo", {"memory": {"nominal": "8 GB"}})
    shown = text(look(quotas=[research, lowered, open_end, broken]), 110).splitlines()
    (line,) = [line for line in shown if line.startswith("research")]
    assert line.endswith("40 of 48 GiB      4 of 20, 1 waits for 16 GiB")
    assert (line.count("█"), line.count("·")) == (20, 4)
    assert next(line for line in shown if line.startswith("lab")).endswith("12 of 8 GiB       3, more than is granted")
    assert "4 GiB, no limit" in next(line for line in shown if line.startswith("ops"))
    assert "grants nothing: spec.memory.nominal: '8 GB' must be" in next(line for line in shown if line.startswith("typo"))


def test_of_two_quotas_of_a_namespace_the_older_one_is_shown():
    old = quota("research", {"memory": {"nominal": "48Gi"}}, reserved=("24Gi", 1))
    new = quota("research", {"memory": {"nominal": "1Gi"}}, created="2026-11-23T05:40:00Z")
    for order in ([old, new], [new, old]):
        assert [line.mebibytes for line in look(quotas=order).quotas] == [48 * 1024]


def test_only_the_newest_generation_of_a_pool_counts():
    old = recorded("slices", RECORDED["slices"][0]["metadata"]["name"])
    old["spec"]["pool"]["generation"] = 0
    old["spec"]["devices"] = old["spec"]["devices"][:2]
    assert [len(look(slices=order).gpus) for order in ([old, RECORDED["slices"][0]], [RECORDED["slices"][0], old])] == [2, 2]


def test_a_gpu_that_takes_nobody_new_says_so():
    (tainted,) = [recorded("slices", RECORDED["slices"][0]["metadata"]["name"])]
    tainted["spec"]["devices"][1]["taints"] = [{"key": "aios.dev/unhealthy", "value": "xid-79", "effect": "NoExecute"}]
    assert "takes nobody new: aios.dev/unhealthy=xid-79:NoExecute" in text(look(slices=[tainted]))


@pytest.mark.parametrize("said", [None, "Healthy", "Faulty", "Unmonitored"])
def test_a_gpu_that_is_not_monitored_says_so(said: str | None) -> None:
    (shown,) = [recorded("slices", RECORDED["slices"][0]["metadata"]["name"])]
    if said is not None:
        shown["spec"]["devices"][1]["attributes"]["health"] = {"string": said}
    picture = look(slices=[shown])
    assert ("not monitored" in text(picture)) is (said == "Unmonitored")
    assert as_json(picture)["nodes"][0]["gpus"][0]["health"] == said
    assert "takes nobody new" not in text(look())


def test_those_who_need_somebody_come_first_and_say_why_and_what_would_help():
    shown = look()
    order = [(line.name, line.standing.state.value) for line in shown.agents]
    assert order == [
        ("once", "failed"),
        ("crasher", "failing"),
        ("typo", "failing"),
        ("big", "waits"),
        ("giant", "waits"),
        ("coder", "ready"),
        ("researcher", "ready"),
        ("worker", "completed"),
    ]
    seen = text(shown)
    assert "asks for 4Ti; the largest GPU here has 80Gi" in seen
    assert "→ lower spec.gpu.memory to 80Gi" in seen
    assert "8 Agents: 1 failed, 2 failing, 2 waits, 2 ready, 1 completed" in seen
    assert "5 restarts" in next(line for line in seen.splitlines() if "crasher" in line)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda agent: agent.pop("status"), "unseen"),
        (lambda agent: agent["metadata"].update(deletionTimestamp="2026-11-23T05:49:00Z"), "deleting"),
        (lambda agent: agent["spec"].update(operatingMode="Stopped"), "stopping"),
        (lambda agent: agent["status"]["conditions"][3].update(status="False", reason="WaitingForNode"), "starting"),
        (lambda agent: agent["status"]["conditions"][3].update(status="False", reason="FenceFailed"), "failing"),
    ],
)
def test_states_follow_from_metadata_and_conditions(change, state):
    agent = recorded("agents", "researcher")
    change(agent)
    (line,) = look(agents=[agent]).agents
    assert line.standing.state.value == state


def a_full_look() -> Picture:
    quotas = [quota(f"team-{n}", {"memory": {"nominal": "48Gi"}}, reserved=("40Gi", 4), waiting=("16Gi", 1)) for n in range(4)]
    return look(runtimes=runtimes(researcher="12Gi", coder="1Gi"), quotas=quotas)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(len(line.rstrip()) for line in text(a_full_look(), width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_who_waits_for_quota_is_not_cut_off(width):
    assert "1 waits for 16 GiB\n" in text(a_full_look(), width)


@pytest.mark.parametrize("height", [10, 16, 24, 50])
def test_a_live_picture_fits_the_terminal_and_says_what_it_leaves_out(height):
    seen = text(a_full_look(), 100, height)
    assert len(seen.splitlines()) <= height
    assert ("more lines" in seen) == (height < 50)


def test_a_cluster_that_does_not_answer_leaves_the_last_picture_with_a_banner():
    assert "! no news since 05:50:00 UTC: connection refused" in text(look(), problem="connection refused")


def test_json_has_what_is_used_and_what_quotas_hold():
    quotas = [quota("research", {"memory": {"nominal": "48Gi"}}, reserved=("40Gi", 4), used=("24Gi", 3))]
    shown = as_json(look(runtimes=runtimes(coder="2Gi"), quotas=quotas))
    gpu = shown["nodes"][0]["gpus"][1]
    assert (gpu["usedBytes"], [holder["usedBytes"] for holder in gpu["holders"]]) == (2 * GIB, [None, 2 * GIB])
    assert next(agent for agent in shown["agents"] if agent["name"] == "coder")["usedBytes"] == 2 * GIB
    (quota_shown,) = shown["quotas"]
    assert quota_shown["nominal"] == {"memoryBytes": 48 * GIB, "agents": None}
    assert quota_shown["reserved"] == {"memoryBytes": 40 * GIB, "agents": 4}
    assert quota_shown["used"] == {"memoryBytes": 24 * GIB, "agents": 3}


def test_json_has_bytes_and_every_agent():
    shown = as_json(look())
    gpus = shown["nodes"][0]["gpus"]
    assert [(gpu["capacityBytes"], gpu["bookedBytes"]) for gpu in gpus] == [(80 * GIB, 0), (48 * GIB, 40 * GIB)]
    assert [holder["name"] for holder in gpus[1]["holders"]] == ["researcher", "coder"]
    giant = next(agent for agent in shown["agents"] if agent["name"] == "giant")
    assert giant["smallestChange"] == "lower spec.gpu.memory to 80Gi"
    assert giant["memoryBytes"] == 4096 * GIB


def cluster() -> FakeCluster:
    made = FakeCluster()
    for resource, kind in ((resources.AGENTS, "agents"), (resources.RESOURCE_CLAIMS, "claims"), (resources.RESOURCE_SLICES, "slices")):
        for each in RECORDED[kind]:
            made.put(resource, each)
    return made


async def test_reading_asks_only_for_agents_pods_and_sees_gpus_of_the_whole_cluster():
    made = cluster()
    shown = await read(made, "prod", "elsewhere")
    assert shown.agents == ()
    assert sum(gpu.booked_mebibytes for gpu in shown.gpus) == 40 * 1024
    assert not [call for call in made.calls if call.writes]


async def test_who_may_read_one_namespace_only_is_told_what_is_missing():
    made = cluster()

    def only_quickstart(call):
        return Forbidden("no", code=403) if call.namespace != "quickstart" else None

    made.refuse.append(only_quickstart)
    shown = await read(made, "prod", "quickstart")
    assert len(shown.agents) == len(RECORDED["agents"])
    assert shown.gpus == []
    others = ("shares of other namespaces (resourceclaims)", "use by other namespaces (agentruntimes)")
    assert shown.unseen == ("GPUs (resourceslices)", *others)
    assert "not shown, since you may not read it: GPUs (resourceslices)" in text(shown)
    with pytest.raises(Forbidden):
        await read(made, "prod", "other")


def test_json_and_once_exclude_each_other():
    answer = CliRunner().invoke(main, ["top", "--json", "--once"])
    assert answer.exit_code == 2
    assert "give one of --json and --once" in answer.output
