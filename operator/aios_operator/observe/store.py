"""Our picture of the cluster: views by name, what changed since the last plan, and what only we know (refusals, exclusions).

Watch events, the responses of our own writes, and audits all come in here. Of one object the newest version wins, whoever brings it; of two
objects of one name the newer one; and what was deleted does not come back by an event that was under way. Only the event loop touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from aios_api import names
from aios_api.reasons import ConditionType
from aios_kube import Selection, resources
from aios_operator.decide import health, lost, quota
from aios_operator.decide.attempts import condition
from aios_operator.decide.objects import POLICY_NAME
from aios_operator.decide.states import (
    AgentState,
    BindingsState,
    ClusterView,
    Exclusion,
    Grant,
    NamespaceState,
    Order,
    OrderRefusal,
    QuotaState,
    Refusal,
)
from aios_operator.decide.views import (
    AgentView,
    BindingView,
    ClaimView,
    Door,
    ExposureView,
    Key,
    NodeSight,
    NodeView,
    PodView,
    PolicyView,
    QuotaView,
    Requests,
    RuntimeView,
    SliceView,
    Taint,
)
from aios_operator.observe import parse, reach
from aios_operator.observe.dirty import Dirty
from aios_operator.observe.heartbeats import Heard
from aios_operator.observe.ranges import Ranges
from aios_operator.observe.selection import Selections
from aios_operator.observe.table import Name, Table
from aios_operator.observe.vanished import Vanished


class Store:
    """All tables, the index from Agents to what belongs to them, and what is to be planned."""

    def __init__(self) -> None:
        ours = Selection(labels=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}")
        self.agents = Table(resources.AGENTS, parse.agent, self._agent_changed)
        self.runtimes = Table(resources.AGENT_RUNTIMES, parse.runtime, self._runtime_changed)
        self.claims = Table(resources.RESOURCE_CLAIMS, parse.claim, self._claim_changed)
        self.pods = Table(resources.PODS, parse.pod, self._pod_changed, Selection(labels=names.LABEL_AGENT))
        self.policies: Table[PolicyView | ExposureView] = Table(resources.NETWORK_POLICIES, parse.policy, self._policy_changed, ours)
        self.quotas = Table(resources.GPU_QUOTAS, parse.quota, self._quota_changed)
        self.bindings = Table(resources.TOOL_BINDINGS, reach.binding, self._binding_changed)
        self.services = Table(resources.SERVICES, reach.service, self._exposure_changed, ours)
        self.nodes = Table(resources.NODES, parse.node, self._node_changed)
        own_driver = Selection(fields=f"spec.driver={names.DRIVER}")
        self.slices = Table(resources.RESOURCE_SLICES, parse.resource_slice, self._slice_changed, own_driver)
        self.heard: Heard | None = None
        """What is heard of nodes. None: nobody listens, and no node is given up."""
        self._vanished = Vanished()
        self.foreign: Mapping[str, Requests] = {}
        self.refusals: dict[Key, Refusal] = {}
        self.exclusions: dict[Key, tuple[Exclusion, ...]] = {}
        self.refused_templates: dict[Key, tuple[str, str]] = {}
        self.refused_orders: dict[Key, OrderRefusal] = {}
        self.refused_exposures: dict[Key, tuple[str, str]] = {}
        self.dirty: Dirty[Key] = Dirty()
        """Agents to plan."""
        self.first: set[Key] = set()
        """Of these, those to plan before the others: what they may reach has changed, and what is forbidden is to end at once."""
        self.dirty_namespaces: set[str] = set()
        self.dirty_quotas: set[str] = set()
        """Namespaces whose quotas may have to say something else."""
        self.dirty_bindings: set[str] = set()
        """Namespaces whose bindings may have to say something else."""
        self.dirty_exposures: set[Key] = set()
        """Agents whose Service and NetworkPolicy may not be as they should."""
        self.gone_nodes: set[str] = set()
        """Nodes of which nothing but a Lease is left, since long."""
        self.ranges = Ranges()
        self.cluster_dirty = False
        """What places are offered or taken has changed."""
        self.on_dirty: Callable[[], None] = lambda: None
        self._agents_in: dict[str, set[Key]] = {}
        self._quotas_in: dict[str, tuple[QuotaView, ...]] = {}
        """The one that counts comes first."""
        self._claims_of: dict[Key, dict[Name, ClaimView]] = {}
        self._pods_of: dict[Key, dict[Name, PodView]] = {}
        self._exposures_of: dict[Key, dict[str, ExposureView]] = {}
        """By kind."""
        self._selections = Selections()
        self._slices_on: dict[str, dict[str, SliceView]] = {}
        """By node and by name."""

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        of_agents = (self.agents, self.runtimes, self.claims, self.pods, self.policies, self.services)
        return (*of_agents, self.quotas, self.bindings, self.nodes, self.slices)

    # What planners see.

    def state(self, key: Key) -> AgentState:
        """All that is known of one Agent."""
        agent, runtime = self.agents.views.get(key), self.runtimes.views.get(key)
        pods = tuple(self._pods_of.get(key, {}).values())
        return AgentState(
            key=key,
            agent=agent,
            runtime=runtime,
            claims=tuple(self._claims_of.get(key, {}).values()),
            pods=pods,
            policy=self._policy_of(key.namespace),
            quota=next(iter(self._quotas_in.get(key.namespace, ())), None),
            refusal=self.refusals.get(key),
            template_refused=self.refused_templates.get(key),
            order_refused=self.refused_orders.get(key),
            bindings=self._selections.of(key, agent.labels) if agent is not None else (),
            exposures=tuple(self._exposures_of.get(key, {}).values()),
            exposure_refused=self.refused_exposures.get(key),
            gpu_taints=self._gpu_taints(runtime),
            nodes=self._sights(lost.nodes_of(agent, runtime, pods) | self._vanished.nodes(key)),
            order_stood=self.heard.stood(key, runtime.attempt) if self.heard is not None and runtime is not None else None,
            vanished=self._vanished.unconfirmed(key, agent.uid) if agent is not None else (),
            known_over=self._vanished.confirmed(key, agent.uid) if agent is not None else frozenset(),
        )

    def _sights(self, nodes: Collection[str]) -> Mapping[str, NodeSight]:
        heard = self.heard
        seen = [heard.sight(name, self.nodes.views.get(("", name))) for name in nodes] if heard is not None else []
        return {sight.name: sight for sight in seen if sight is not None}

    def _gpu_taints(self, runtime: RuntimeView | None) -> tuple[Taint, ...]:
        if runtime is None or runtime.gpu is None:
            return ()
        return health.taints_of(self._slices_on.get(runtime.node_name, {}).values(), runtime.gpu.uuid)

    def namespace(self, namespace: str) -> NamespaceState:
        """What is known of one namespace. While a pod of an Agent is left, it counts as one with Agents."""
        agents = namespace in self._agents_in or any(key.namespace == namespace for key in self._pods_of)
        return NamespaceState(namespace, agents, self._policy_of(namespace))

    def _policy_of(self, namespace: str) -> PolicyView | None:
        found = self.policies.views.get((namespace, POLICY_NAME))
        return found if isinstance(found, PolicyView) else None

    def bindings_state(self, namespace: str) -> BindingsState:
        """The bindings of a namespace, and the Agents that they may select."""
        bindings = tuple(view for (where, _), view in self.bindings.views.items() if where == namespace)
        members = self._agents_in.get(namespace, ()) if bindings else ()
        return BindingsState(bindings, tuple(self.state(key) for key in members))

    def counting_quotas(self) -> Iterable[tuple[str, QuotaView]]:
        """By namespace: the quota that counts."""
        return ((namespace, quotas[0]) for namespace, quotas in self._quotas_in.items())

    def quota_state(self, namespace: str) -> QuotaState:
        """The quotas of a namespace, and all that hold or want something of them."""
        return QuotaState(self._quotas_in.get(namespace, ()), tuple(self._members({namespace})[namespace]))

    def _members(self, namespaces: Collection[str]) -> dict[str, list[AgentState]]:
        """Every Agent of these namespaces of which anything is left."""
        members: dict[str, list[AgentState]] = {namespace: [] for namespace in namespaces}
        for key in self.keys() if namespaces else ():
            if key.namespace in members:
                members[key.namespace].append(self.state(key))
        return members

    def _grants(self, waiting: Iterable[AgentState], orders: Iterable[Order], unlimited_without: bool) -> dict[str, Grant]:
        namespaces = {state.key.namespace for state in waiting}
        members = self._members([namespace for namespace in namespaces if namespace in self._quotas_in or not unlimited_without])
        return quota.grants({each: self._quotas_in.get(each, ()) for each in namespaces}, members, orders, unlimited_without)

    def cluster(
        self,
        waiting: Collection[AgentState],
        unsettled: Collection[AgentState],
        orders: Collection[Order],
        now: datetime,
        *,
        unlimited_without_quota: bool,
    ) -> ClusterView:
        """All that offers or takes a place."""
        self._forget_exclusions(now)
        return ClusterView(
            nodes={node.name: node for node in self.nodes.views.values()},
            slices=self.slices.views.values(),
            claims=self.claims.views.values(),
            orders=orders,
            pods=[pod for pod in self.pods.views.values() if pod.node_name is not None and pod.phase not in ("Succeeded", "Failed")],
            foreign=self.foreign,
            waiting=waiting,
            unsettled=unsettled,
            grants=self._grants([*waiting, *unsettled], orders, unlimited_without_quota),
            exclusions=self.exclusions,
            refusals=self.refusals,
        )

    def namespaces(self) -> set[str]:
        """Every namespace with an Agent, a pod of one, or a policy of ours."""
        return {key.namespace for key in self.keys()} | {namespace for namespace, _ in self.policies.views}

    def keys(self) -> set[Key]:
        """Every Agent of which anything is left."""
        named = {Key(*name) for table in (self.agents, self.runtimes) for name in table.views}
        return named | set(self._claims_of) | set(self._pods_of)

    # What only we know.

    def set_foreign(self, requests: Mapping[str, Requests]) -> None:
        if requests != self.foreign:
            self.foreign = requests
            self._offer_changed(None, None)

    def set_refusal(self, key: Key, refusal: Refusal | None) -> None:
        if self.refusals.get(key) == refusal:
            return
        if refusal is None:
            del self.refusals[key]
        else:
            self.refusals[key] = refusal
        self.mark(key)

    def exclude(self, key: Key, exclusion: Exclusion) -> None:
        others = tuple(e for e in self.exclusions.get(key, ()) if e.node != exclusion.node)
        self.exclusions[key] = (*others, exclusion)
        self.cluster_dirty = True

    def attempts(self) -> dict[Key, int]:
        """The attempt of every order that stands."""
        return {runtime.key: runtime.attempt for runtime in self.runtimes.views.values()}

    def keys_by_node(self) -> dict[str, list[Key]]:
        """The Agents that are, were, or are to be on each node."""
        on: dict[str, list[Key]] = {}
        for key in self.keys():
            of_key = self.agents.views.get(key), self.runtimes.views.get(key), self._pods_of.get(key, {}).values()
            for node in lost.nodes_of(*of_key) | self._vanished.nodes(key):
                on.setdefault(node, []).append(key)
        return on

    def hear(
        self, began: float, ended: float, leases: Mapping[str, str], orders: Mapping[Key, int], doors: Mapping[str, Door] | None = None
    ) -> None:
        """The Leases of node agents were read: as in `Heard.take`. Agents are planned whose nodes are, or were, in trouble or silent."""
        assert self.heard is not None, "who listens keeps what is heard"
        on = self.keys_by_node()
        troubled = {node for node in on if lost.trouble(self.nodes.views.get(("", node))) is not None}
        before = self.heard.noteworthy()
        self.heard.take(began, ended, leases, orders, troubled, doors)
        self.gone_nodes = {node for node in self.heard.silent() if node not in on and ("", node) not in self.nodes.views}
        if self.gone_nodes:
            self.on_dirty()
        departed = {key for key, agent in ((Key(*name), view) for name, view in self.agents.views.items()) if agent.status.get("leaving")}
        departed |= {view.key for view in self.runtimes.views.values() if not view.context_here}
        departed |= self._vanished.heard(self.heard.version)
        for key in {key for node in before | self.heard.noteworthy() for key in on.get(node, ())} | departed:
            self.mark(key)

    def suspect(self) -> None:
        """Pods that went while this process did not run may run on. For the start, once everything is read, Leases too."""
        if self.heard is not None:
            for key in self._vanished.unseen(map(self.state, self.keys()), self.heard.version):
                self.mark(key)

    def refuse_template(self, key: Key, digest: str, message: str) -> None:
        """The server finds what is made from this template invalid."""
        if self.refused_templates.get(key) != (digest, message):
            self.refused_templates[key] = (digest, message)
            self.mark(key)

    def refuse_order(self, key: Key, refusal: OrderRefusal) -> None:
        """The server does not let claim or pod of an attempt be made."""
        if self.refused_orders.get(key) != refusal:
            self.refused_orders[key] = refusal
            self.mark(key)

    def refuse_exposure(self, key: Key, refusal: tuple[str, str] | None) -> None:
        """Why the server does not let the Agent's Service or NetworkPolicy be made; None: it does."""
        if self.refused_exposures.get(key) != refusal:
            self.refused_exposures.pop(key, None)
            if refusal is not None:
                self.refused_exposures[key] = refusal
            self.mark(key)

    def forget(self, key: Key) -> None:
        """Nothing of the Agent is left: neither is what only we knew of it."""
        known: dict[Key, Any]
        for known in (self.refusals, self.exclusions, self.refused_templates, self.refused_orders, self.refused_exposures):
            known.pop(key, None)
        self._vanished.forget(key)

    def mark(self, key: Key) -> None:
        """The Agent is planned in the next cycle."""
        self.dirty.add(key)
        if key.namespace in self._quotas_in:
            self.dirty_quotas.add(key.namespace)
        self.on_dirty()

    def _forget_exclusions(self, now: datetime) -> None:
        held = {key: tuple(each for each in of_key if each.holds(now)) for key, of_key in self.exclusions.items()}
        self.exclusions = {key: of_key for key, of_key in held.items() if of_key}

    # Who is concerned by a change.

    def _agent_changed(self, old: AgentView | None, new: AgentView | None) -> None:
        key = (new or old).key  # type: ignore[union-attr]
        if old is None:
            self._agents_in.setdefault(key.namespace, set()).add(key)
        elif new is None:
            self._agents_in[key.namespace].discard(key)
            if not self._agents_in[key.namespace]:
                del self._agents_in[key.namespace]
        if old is None or new is None:
            self.dirty_namespaces.add(key.namespace)
        elif old.uid != new.uid:
            self.forget(key)  # what was said of the Agent that had the name before
        if old is not None and (new is None or _reservation(old) != _reservation(new)):
            self.cluster_dirty = True  # quota was given back
        self._selections.agent_changed(old, new)
        if old is not None and new is not None and old.labels != new.labels:
            self.first.add(key)  # a binding may select it no longer
        self.dirty_bindings.add(key.namespace)
        self.dirty_exposures.add(key)
        self.mark(key)

    def _runtime_changed(self, old: RuntimeView | None, new: RuntimeView | None) -> None:
        key = (new or old).key  # type: ignore[union-attr]
        self.cluster_dirty = True
        self.dirty_bindings.add(key.namespace)
        self.mark(key)

    def _claim_changed(self, old: ClaimView | None, new: ClaimView | None) -> None:
        self._reindex(self._claims_of, old, new)
        self._offer_changed(old, new)

    def _pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        self._reindex(self._pods_of, old, new)
        if new is None and old is not None:
            self.dirty_namespaces.add(old.namespace)
            if self.heard is not None:
                self._vanished.removed(old, self.heard.version)
        elif old is None and new is not None:
            self._vanished.followed(new)
        self._offer_changed(old, new)

    def _policy_changed(self, old: PolicyView | ExposureView | None, new: PolicyView | ExposureView | None) -> None:
        if isinstance(new or old, ExposureView):
            self._exposure_changed(old, new)  # type: ignore[arg-type]  # one name means one kind of view
            return
        namespace = (new or old).namespace  # type: ignore[union-attr]
        self.dirty_namespaces.add(namespace)
        self.dirty |= self._agents_in.get(namespace, set())
        self.on_dirty()

    def _quota_changed(self, old: QuotaView | None, new: QuotaView | None) -> None:
        namespace = (new or old).namespace  # type: ignore[union-attr]
        others = [each for each in self._quotas_in.get(namespace, ()) if old is None or each.name != old.name]
        self._quotas_in[namespace] = quota.oldest_first([*others, *([new] if new is not None else [])])
        if not self._quotas_in[namespace]:
            del self._quotas_in[namespace]
        self.dirty_quotas.add(namespace)
        if old is None or new is None or _means(old) != _means(new):
            self.dirty |= self._agents_in.get(namespace, set())
            self.cluster_dirty = True
        self.on_dirty()

    def _binding_changed(self, old: BindingView | None, new: BindingView | None) -> None:
        self.dirty_bindings.add((new or old).namespace)  # type: ignore[union-attr]
        if old is None or new is None or (old.uid, old.binding, old.deleting) != (new.uid, new.binding, new.deleting):
            concerned = self._selections.binding_changed(old, new)
            self.first |= concerned
            self.dirty |= concerned
        self.on_dirty()

    def _exposure_changed(self, old: ExposureView | None, new: ExposureView | None) -> None:
        for view in (old, new):
            if view is None:
                continue
            held = self._exposures_of.setdefault(view.agent, {})
            if view is new:
                held[view.kind] = view
            else:
                held.pop(view.kind, None)
            if not held:
                del self._exposures_of[view.agent]
            self.dirty_exposures.add(view.agent)
            self.mark(view.agent)

    def _slice_changed(self, old: SliceView | None, new: SliceView | None) -> None:
        if old is not None:
            self._slices_on[old.node_name].pop(old.name)
        if new is not None:
            self._slices_on.setdefault(new.node_name, {})[new.name] = new
        for node in {each.node_name for each in (old, new) if each is not None and any(gpu.taints for gpu in each.gpus)}:
            self._mark_on(node)
        self._offer_changed(old, new)

    def _node_changed(self, old: NodeView | None, new: NodeView | None) -> None:
        if old is None or new is None or lost.trouble(old) != lost.trouble(new):
            self._mark_on((new or old).name)  # type: ignore[union-attr]
        if (old.networks if old else frozenset()) != (new.networks if new else frozenset()):
            self.ranges.dirty = True
        self._offer_changed(old, new)

    def _mark_on(self, node: str) -> None:
        """Every Agent whose order is for that node is planned."""
        for runtime in self.runtimes.views.values():
            if runtime.node_name == node:
                self.mark(runtime.key)

    def _offer_changed(self, old: object, new: object) -> None:
        self.cluster_dirty = True
        self.on_dirty()

    def _reindex(self, index: dict[Key, dict[Name, Any]], old: Any, new: Any) -> None:
        for view in (old, new):
            if view is None or view.agent is None:
                continue
            held = index.setdefault(view.agent, {})
            if view is new:
                held[(view.namespace, view.name)] = view
            else:
                held.pop((view.namespace, view.name), None)
            if not held:
                del index[view.agent]
            self.mark(view.agent)


def _reservation(agent: AgentView) -> Any:
    return condition(agent.status, ConditionType.QuotaReserved).get("status")


def _means(view: QuotaView) -> object:
    """What of a quota concerns Agents: not how much is held of it."""
    return view.mebibytes, view.agents, view.spec_error, condition(view.status, ConditionType.Exceeded).get("status")
