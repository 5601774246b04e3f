"""Performs effects: the only place of the operator that writes to the API.

The effects of one plan for one Agent are carried out in their order, and the first that fails ends them: the Agent is planned again,
from what the failure taught the store. Every write carries what it assumes (a uid, or that the name is free), and every answer goes
into the store before the Agent is planned again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aios_api import names
from aios_api.reasons import Reason
from aios_kube import ClusterClient, Object, resources
from aios_kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from aios_operator.decide import effects as do
from aios_operator.decide.objects import POLICY_NAME
from aios_operator.decide.states import OrderRefusal
from aios_operator.decide.views import Key
from aios_operator.observe.store import Store
from aios_operator.observe.table import Table

MANAGER = names.FIELD_MANAGER_OPERATOR
REVISION_TRIES = 3


class NameTaken(Conflict):
    """The name that we need belongs to an object that is not ours."""


@dataclass
class Executor:
    """`perform` one effect. Raises the `ApiError` that stopped it, after the store has learnt what there is to learn from it."""

    client: ClusterClient
    store: Store

    async def perform(self, effect: do.Write) -> None:
        match effect:
            case do.AddFinalizer():
                await self._finalizers(effect, present=True)
            case do.RemoveFinalizer():
                await self._finalizers(effect, present=False)
            case do.ApplyRuntime(key, uid, body, _):
                await (self._create(self.store.runtimes, body) if uid is None else self._order(key, uid, body))
            case do.ReviseOrder(key, uid, egress, expose, context, context_from):
                # A policy has always each of its parts, so that the merge leaves nothing of the one before.
                part = {"spec": {"egress": egress, "expose": expose, "context": context, "contextFrom": context_from}}
                await self._revise(key, uid, part)
            case do.ApplyExposure(key, uid, body):
                await self._expose(key, uid, body)
            case do.DeleteExposure(key, kind, name, uid):
                await self._delete(self._exposures(kind), key.namespace, name, uid)
            case do.CreateClaim(key, body, digest):
                await self._create_for(key, digest, self.store.claims, body)
            case do.CreatePod(key, body, digest):
                await self._create_for(key, digest, self.store.pods, body)
            case do.ApplyPolicy(namespace, body):
                await self._policy(namespace, body)
            case do.DeletePod(key, name, uid, at_once):
                await self._delete(self.store.pods, key.namespace, name, uid, grace_seconds=0 if at_once else None)
            case do.NudgePod(key, name, uid, at):
                path = f"/metadata/annotations/{names.ANNOTATION_NUDGED.replace('/', '~1')}"
                nudge = [{"op": "add", "path": path, "value": at.isoformat()}]
                await self._patch(self.store.pods, key.namespace, name, nudge, uid=uid)
            case do.DeleteClaim(key, name, uid):
                await self._delete(self.store.claims, key.namespace, name, uid)
            case do.DeleteRuntime(key, uid):
                await self._delete(self.store.runtimes, key.namespace, key.name, uid)
            case do.DeletePolicy(namespace, uid):
                await self._delete(self.store.policies, namespace, POLICY_NAME, uid)
            case do.DeleteNodeLease(namespace, node):
                with suppress(NotFound):
                    await self.client.delete(resources.LEASES, names.node_lease_name(node), namespace)
            case do.PublishRanges(namespace, cidrs):
                await self._publish(namespace, cidrs)
            case do.WriteStatus(key, uid, status):
                await self._status(self.store.agents, key.namespace, key.name, uid, status)
            case do.WriteQuotaStatus(namespace, name, uid, status):
                await self._status(self.store.quotas, namespace, name, uid, status)
            case do.WriteBindingStatus(namespace, name, uid, status):
                await self._status(self.store.bindings, namespace, name, uid, status)

    async def look_at_order(self, key: Key) -> None:
        """The store shows the Agent's order as the server has it now. Raises the `ApiError` that kept it from being read."""
        table = self.store.runtimes
        known = table.views.get(key)
        try:
            table.upsert(await self.client.get(table.resource, key.name, key.namespace))
        except NotFound:
            if known is not None:
                table.remove(key.namespace, key.name, known.uid)

    async def _status(self, table: Table[Any], namespace: str, name: str, uid: str, status: Object) -> None:
        part = [{"op": "add", "path": "/status", "value": status}]
        await self._follow(table, namespace, name, part, uid=uid, subresource="status")

    async def _finalizers(self, effect: do.AddFinalizer | do.RemoveFinalizer, present: bool) -> None:
        key = effect.key
        agent = self.store.agents.views.get(key)
        if agent is None or agent.uid != effect.uid or agent.resource_version != effect.resource_version:
            return  # planned from an older picture; the newer one is planned again
        others = [finalizer for finalizer in agent.finalizers if finalizer != names.FINALIZER]
        wanted = [*others, names.FINALIZER] if present else others
        patch: Object = {"metadata": {"finalizers": wanted}}
        version = effect.resource_version
        await self._patch(self.store.agents, key.namespace, key.name, patch, uid=effect.uid, resource_version=version)

    async def _order(self, key: Key, uid: str, body: Object) -> None:
        # Whole parts are replaced, and nobody else writes them: an apply would keep a GPU of the order before that the POST had set.
        # Only the order that we know is followed by the next: another operator may have given one of the same number meanwhile.
        known = self.store.runtimes.views.get(key)
        if known is None or known.uid != uid or known.attempt >= body["spec"]["attempt"]:
            return  # planned from an older picture; the newer one is planned again
        last = [{"op": "test", "path": "/spec/attempt", "value": known.attempt}]
        # While a context is on its way, its node may say at this moment that it is there: then it is to be fetched from there.
        version = None if known.context_here else known.resource_version
        await self._patch(self.store.runtimes, key.namespace, key.name, [*last, *_whole(body)], uid=uid, resource_version=version)

    async def _revise(self, key: Key, uid: str, part: Object) -> None:
        """What the node says of the order meanwhile is no reason to wait; another revision is."""
        table = self.store.runtimes
        for tries_left in reversed(range(REVISION_TRIES)):
            known = table.views.get(key)
            try:
                await self._follow(table, key.namespace, key.name, part, uid=uid)
            except Conflict:
                found = table.views.get(key)
                if not tries_left or known is None or found is None or (found.uid, found.generation) != (uid, known.generation):
                    raise
            else:
                return

    async def _policy(self, namespace: str, body: Object) -> None:
        name = body["metadata"]["name"]
        known = self.store.policies.views.get((namespace, name))
        if known is None:
            await self._create(self.store.policies, body)
            return
        # Replaced and not applied: a rule that someone added must go.
        await self._follow(self.store.policies, namespace, name, _whole(body), uid=known.uid)

    def _exposures(self, kind: str) -> Table[Any]:
        return self.store.services if kind == "Service" else self.store.policies

    async def _publish(self, namespace: str, cidrs: tuple[str, ...]) -> None:
        """The ConfigMap is the chart's, which leaves its data alone."""
        data: Object = {"data": {names.CLUSTER_RANGES_KEY: "".join(f"{cidr}\n" for cidr in cidrs)}}
        await self.client.patch(resources.CONFIG_MAPS, names.CLUSTER_RANGES, data, namespace=namespace, field_manager=MANAGER)
        self.store.ranges.published = cidrs

    async def _expose(self, key: Key, uid: str | None, body: Object) -> None:
        """The Service or NetworkPolicy is as in `body`. What the server has against it is remembered for the planner."""
        table, name = self._exposures(body["kind"]), body["metadata"]["name"]
        try:
            if uid is None:
                await self._create(table, body)
            else:
                # Lists are replaced by a merge; what else there is in a Service (its address) is the server's.
                await self._follow(table, key.namespace, name, {"spec": body["spec"]}, uid=uid)
        except (Invalid, Forbidden, NameTaken) as error:
            reason = {Invalid: Reason.InvalidSpec, Forbidden: Reason.Forbidden, NameTaken: Reason.NameTaken}[type(error)]
            self.store.refuse_exposure(key, (reason, error.message))
            raise
        self.store.refuse_exposure(key, None)

    async def _create_for(self, key: Key, digest: str, table: Table[Any], body: Object) -> None:
        """A claim or a pod of an attempt. What the server has against it is remembered for the planner."""
        try:
            await self._create(table, body)
        except Invalid as error:
            self.store.refuse_template(key, digest, error.message)
            raise
        except (Forbidden, NameTaken) as error:
            reason = Reason.Forbidden if isinstance(error, Forbidden) else Reason.NameTaken
            attempt = int(body["metadata"]["labels"][names.LABEL_ATTEMPT])
            self.store.refuse_order(key, OrderRefusal(attempt, reason, error.message))
            raise
        self.store.refused_orders.pop(key, None)

    async def _create(self, table: Table[Any], body: Object) -> None:
        """The object exists and is ours: made now, or by an earlier try whose answer was lost."""
        metadata = body["metadata"]
        try:
            table.upsert(await self.client.create(table.resource, body, field_manager=MANAGER))
        except AlreadyExists as error:
            found = await self.client.get(table.resource, metadata["name"], metadata["namespace"])
            table.upsert(found)
            if not _is_ours(found, body):
                owner = ", ".join(f"{o['kind']} {o['name']}" for o in found["metadata"].get("ownerReferences") or ()) or "nobody"
                message = f"{table.resource.kind} {metadata['name']} exists and is owned by {owner}; it must be removed"
                raise NameTaken(message, code=409, reason="NameTaken") from error

    async def _follow(
        self, table: Table[Any], namespace: str, name: str, patch: Object | list[Object], *, uid: str, subresource: str | None = None
    ) -> None:
        """The object that we have seen is changed, and none that came after it: what was sent long ago and arrives late, when another
        operator has written meanwhile, changes nothing."""
        known = table.views.get((namespace, name))
        if known is None or known.uid != uid:
            return  # planned from an older picture; the newer one is planned again
        await self._patch(table, namespace, name, patch, uid=uid, resource_version=known.resource_version, subresource=subresource)

    async def _patch(
        self,
        table: Table[Any],
        namespace: str,
        name: str,
        patch: Object | list[Object],
        *,
        uid: str,
        resource_version: str | None = None,
        subresource: str | None = None,
    ) -> None:
        try:
            answer = await self.client.patch(
                table.resource,
                name,
                patch,
                namespace=namespace,
                field_manager=MANAGER,
                uid=uid,
                resource_version=resource_version,
                subresource=subresource,
            )
        except NotFound:
            table.remove(namespace, name, uid)
            return
        except Conflict:
            await self._look(table, namespace, name, uid)
            raise
        if answer["metadata"].get("deletionTimestamp") and not answer["metadata"].get("finalizers"):
            table.remove(namespace, name, uid)  # that was the last finalizer
        else:
            table.upsert(answer)

    async def _delete(self, table: Table[Any], namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        try:
            await self.client.delete(table.resource, name, namespace, uid=uid, grace_seconds=grace_seconds, propagation="Background")
        except NotFound:
            table.remove(namespace, name, uid)
        except Conflict:
            table.remove(namespace, name, uid)  # the uid is a precondition: another object has the name
            await self._look(table, namespace, name, uid)
        else:
            table.is_being_deleted(namespace, name, uid, **({"at_once": True} if grace_seconds == 0 else {}))

    async def _look(self, table: Table[Any], namespace: str, name: str, uid: str) -> None:
        """After a conflict the store shows what is there, without waiting for the watch."""
        try:
            found = await self.client.get(table.resource, name, namespace)
        except NotFound:
            table.remove(namespace, name, uid)
            return
        if found["metadata"]["uid"] != uid:
            table.remove(namespace, name, uid)
        table.upsert(found)


def _whole(body: Object) -> list[Object]:
    """Spec and labels of an object of which we are the only writer, replaced."""
    return [
        {"op": "replace", "path": "/spec", "value": body["spec"]},
        {"op": "add", "path": "/metadata/labels", "value": body["metadata"]["labels"]},
    ]


def _is_ours(found: Object, wanted: Object) -> bool:
    """Made for the same owner and the same attempt, as only we make it. A NetworkPolicy has no owner: its label says that it is ours."""

    def marks(obj: Object) -> Any:
        metadata = obj["metadata"]
        owners = sorted(o["uid"] for o in metadata.get("ownerReferences") or () if o.get("controller"))
        labels = metadata.get("labels") or {}
        return owners, [labels.get(label) for label in (names.LABEL_MANAGED_BY, names.LABEL_AGENT_UID, names.LABEL_ATTEMPT)]

    return bool(marks(found) == marks(wanted))
