"""Whatever people write, one thing after the other: what is declared is reached, and then nothing is written; what was wrong is mended by
undoing it; and when all of it is deleted nothing is left."""

import asyncio
import os
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from aios_api import names
from aios_api.reasons import Reason
from aios_kube import resources
from aios_kube.resources import Resource
from aios_operator.decide.views import Key
from property.declared import AGENTS, BINDINGS, BROKEN, QUOTAS
from unit.operator.world import World

Written = tuple[Resource, str]
DEFAULTS = {"gpu": None, "expose": None, "context": None, "activeDeadlineSeconds": None, "priority": 0}
"""What an Agent has that is written anew without them, whatever was wrong in it before."""
_MOMENT = timedelta(seconds=10)
GPU_GIB = 80
"""Of the one node."""
UNLIMITED_GIB = 1 << 20


class Changes(RuleBasedStateMachine):
    written = Bundle("written")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.world.node()
        self.broken: dict[Written, tuple[Any, Any]] = {}
        """What was written over, and what of the Agents was so then."""

    def teardown(self) -> None:
        try:
            self._clear()
        finally:
            self.runner.close()

    # What people do.

    @rule(target=written, name=st.sampled_from(["a", "b", "c"]), spec=AGENTS, app=st.sampled_from(["coder", "writer"]))
    def an_agent(self, name: str, spec: Any, app: str) -> Written:
        key = self.world.apply(name, **{**DEFAULTS, **spec})
        self.world.label(key, app=app)
        return self._change(resources.AGENTS, name)

    @rule(target=written, name=st.sampled_from(["q"]), spec=QUOTAS)
    def a_quota(self, name: str, spec: Any) -> Written:
        self.world.declare(resources.GPU_QUOTAS, name, spec)
        return self._change(resources.GPU_QUOTAS, name)

    @rule(target=written, name=st.sampled_from(["x", "y"]), spec=BINDINGS)
    def a_binding(self, name: str, spec: Any) -> Written:
        self.world.declare(resources.TOOL_BINDINGS, name, spec)
        return self._change(resources.TOOL_BINDINGS, name)

    @rule(what=consumes(written))
    def is_deleted(self, what: Written) -> None:
        self._delete(*what)
        self._change(*what)

    @precondition(lambda self: not self.broken)
    @rule(what=written, data=st.data())
    def is_broken(self, what: Written, data: st.DataObject) -> None:
        kind, name = what
        found = self.world.cluster.peek(kind, name, "ns")
        if found is None:
            return
        self.broken[what] = found["spec"], self._seen()
        self.world.declare(kind, name, {**found["spec"], **data.draw(st.sampled_from(BROKEN[kind]))})
        self._settle()

    @precondition(lambda self: self.broken)
    @rule()
    def is_undone(self) -> None:
        ((kind, name), (spec, seen)) = self.broken.popitem()
        if self.world.cluster.peek(kind, name, "ns") is None:
            return
        self.world.declare(kind, name, spec)
        self._settle()
        assert seen is None or self._seen() == seen, "undoing what was wrong gives back what was"

    @rule()
    def the_operator_starts_anew(self) -> None:
        self.world.operator()
        self._settle()

    # What must be so.

    @invariant()
    def a_second_look_writes_nothing(self) -> None:
        mark = self.world.mark
        self.world.loop.sweep()
        self._settle()
        assert [(call.verb, call.resource.plural, call.name) for call in self.world.writes_since(mark)] == []

    @invariant()
    def each_agent_is_as_declared(self) -> None:
        if self.broken:
            return
        for found in self.world.cluster.all(resources.AGENTS):
            name, spec = found["metadata"]["name"], found["spec"]
            pods = self._of(resources.PODS, name)
            conditions = {each["type"]: each for each in found["status"]["conditions"]}
            ready = conditions["Ready"]["status"] == "True"
            assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
            assert len(pods) <= 1
            if spec.get("operatingMode") == "Stopped":
                assert not pods
                assert not self._of(resources.RESOURCE_CLAIMS, name)
            elif (pending := found["status"].get("pending")) is not None:  # nothing runs, or what was declared before
                assert pending["smallestChange"]
                assert self._reasons_to_wait(name, spec).get(pending["reason"], False), (pending, self._held())
            else:
                assert ready, conditions
                self._runs_as_declared(name, spec)

    @invariant()
    def nothing_is_given_twice(self) -> None:
        assert sum(self._held().values()) <= GPU_GIB

    def _runs_as_declared(self, name: str, spec: Any) -> None:
        (order,) = self._of(resources.AGENT_RUNTIMES, name)
        assert order["spec"].get("gpu", {}).get("memory") == (spec.get("gpu") or {}).get("memory")
        assert {each["port"] for each in order["spec"].get("expose") or ()} == {each["port"] for each in spec.get("expose") or ()}
        assert bool(order["spec"].get("context")) == (spec.get("context") is not None)
        assert set(self.world.reaches(Key("ns", name))) == self._bound(name)
        services = [each["metadata"]["name"] for each in self.world.cluster.all(resources.SERVICES)]
        assert (name in services) == bool(spec.get("expose"))

    def _bound(self, name: str) -> set[str]:
        labels = self.world.agent(Key("ns", name))["metadata"]["labels"]
        bindings = [each["spec"] for each in self.world.cluster.all(resources.TOOL_BINDINGS)]
        selecting = [each for each in bindings if (each.get("agentSelector") or {}).get("matchLabels", {"": ""}).items() <= labels.items()]
        return {rule["host"] for each in selecting for rule in each.get("egress") or ()}

    def _reasons_to_wait(self, name: str, spec: Any) -> dict[str, bool]:
        """Each that an Agent may name here, and whether it is so: none is where all that is declared fits together."""
        agents = {each["metadata"]["name"]: each["spec"] for each in self.world.cluster.all(resources.AGENTS)}
        wanted = {each: _memory(spec) for each, spec in agents.items() if spec.get("operatingMode") != "Stopped"}
        quotas = [each["spec"] for each in self.world.cluster.all(resources.GPU_QUOTAS)]
        quota = quotas[0] if quotas else {}
        nominal = _gib((quota.get("memory") or {}).get("nominal", f"{UNLIMITED_GIB}Gi"))
        most = UNLIMITED_GIB if quota.get("agents") is None else quota["agents"]
        if sum(wanted.values()) <= min(nominal, GPU_GIB) and len(wanted) <= most:
            return {}
        others = [gib for agent, gib in self._held().items() if agent != name]
        want = _memory(spec)
        beyond = want > nominal or most == 0
        return {
            Reason.LargerThanQuota: beyond,
            Reason.QuotaExhausted: not beyond and (want + sum(others) > nominal or len(others) >= most),
            Reason.LargerThanAnyGPU: want > GPU_GIB,
            Reason.NoGPUFits: want <= GPU_GIB < want + sum(others),
        }

    def _held(self) -> dict[str, int]:
        """What each Agent has booked."""
        held = {}
        for claim in self.world.cluster.all(resources.RESOURCE_CLAIMS):
            results = (claim.get("status") or {}).get("allocation", {}).get("devices", {}).get("results", ())
            if results:
                agent = claim["metadata"]["labels"][names.LABEL_AGENT]
                held[agent] = held.get(agent, 0) + sum(_gib(each["consumedCapacity"].get("memory", "0Gi")) for each in results)
        return held

    # How.

    def _of(self, kind: Resource, agent: str) -> list[Any]:
        found = self.world.cluster.all(kind)
        return [each for each in found if each["metadata"]["name"] == agent or each["metadata"]["name"].startswith(f"{agent}-")]

    def _delete(self, kind: Resource, name: str) -> None:
        if self.world.cluster.peek(kind, name, "ns") is None:
            return
        if kind == resources.AGENTS:
            self.runner.run(self.world.delete(Key("ns", name)))
        else:
            self.world.cluster.remove(kind, name, "ns")

    def _change(self, kind: Resource, name: str) -> Written:
        self.broken.pop((kind, name), None)
        self.broken = {what: (spec, None) for what, (spec, _) in self.broken.items()}  # something else will have become of the Agents
        self._settle()
        return kind, name

    def _settle(self) -> None:
        self.runner.run(self._running())

    async def _running(self) -> None:
        """Until nothing changes: an Agent may give a place to another, which leaves one to a third."""
        for _ in range(12):
            before = self.world.cluster._version
            self.world.now += _MOMENT  # what is told no sooner than a moment after the last time is told
            await self.world.running()
            self.world.collect_garbage()
            if self.world.cluster._version == before:
                return
        raise AssertionError("it never comes to rest")

    def _seen(self) -> Any:
        """What of the Agents must be the same again: not which attempt, nor when."""
        return {
            each["metadata"]["name"]: sorted(
                (c["type"], c["status"], c["reason"]) for c in each["status"]["conditions"] if c["type"] == "Ready"
            )
            for each in self.world.cluster.all(resources.AGENTS)
        }

    def _clear(self) -> None:
        for kind in BROKEN:
            for each in self.world.cluster.all(kind):
                self._delete(kind, each["metadata"]["name"])
        self._settle()
        kinds = (resources.AGENT_RUNTIMES, resources.PODS, resources.RESOURCE_CLAIMS, resources.SERVICES, resources.NETWORK_POLICIES)
        left = [(kind.plural, each["metadata"]["name"]) for kind in (resources.AGENTS, *kinds) for each in self.world.cluster.all(kind)]
        assert left == []


def _memory(spec: Any) -> int:
    """What an Agent asks for."""
    return _gib((spec.get("gpu") or {}).get("memory", "0Gi"))


def _gib(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


TestChanges = Changes.TestCase
EXAMPLES = 1000 if os.environ.get("AIOS_SEARCH") else 60
TestChanges.settings = settings(max_examples=EXAMPLES, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
