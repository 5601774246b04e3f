"""The loop: what changed is planned, what is planned is done, and each Agent by one worker at a time.

Agents are planned as soon as something of theirs changes. The cluster is planned when an Agent needs a place and when what is offered or
taken has changed, after changes were collected for a moment. While an Agent's writes are under way it is not planned again; what was
decided for it counts as taken.

No more is planned than can be written at once. Who has to wait is planned from what is true when its turn comes, so that many changes
under load cost one write; and those whose claims or pods are still to be made go first, since a status can wait. Before all others go those
of whom a binding has changed.

What planners wait for is a moment of the wall clock, which stands in objects. The loop's own waits are by a clock that nobody sets: else
one that is put back by an hour would hold up every back-off, cycle and batch for that hour.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import get_args

from aios_kube.errors import ApiError
from aios_operator.act.executor import Executor
from aios_operator.act.report import Reporter
from aios_operator.batches import Batches
from aios_operator.decide import effects as do
from aios_operator.decide.agent import plan_agent, plan_namespace
from aios_operator.decide.bindings import plan_bindings
from aios_operator.decide.cluster import plan_cluster, standing_order, waiting
from aios_operator.decide.exposure import plan_exposure
from aios_operator.decide.quota import plan_quotas
from aios_operator.decide.ranges import cluster_ranges
from aios_operator.decide.states import AgentState, Order
from aios_operator.decide.views import Key
from aios_operator.metrics import Metrics
from aios_operator.observe import parse
from aios_operator.observe.store import Store
from aios_operator.settings import OperatorSettings
from aios_operator.subjects import Bindings, Exposure, GoneNode, Quotas, Ranges, Subject, named, plan_again
from aios_operator.timers import Timers

log = logging.getLogger(__name__)


LONGEST_SLEEP_SECONDS = 1.0
"""The loop turns at least so often, which is what liveness looks at."""

CLOCK_SET = timedelta(seconds=5)
"""A wall clock that moved by so much against the steady one was set; what is corrected in small steps was not."""

_WRITES = get_args(do.Write)


@dataclass
class Loop:
    """`run` for ever, once the store is filled. `turn` is one round without waiting, for tests."""

    store: Store
    executor: Executor
    reporter: Reporter
    metrics: Metrics
    settings: OperatorSettings
    clock: Callable[[], datetime]
    """Of the wall: what planners are told."""
    steady: Callable[[], datetime]
    """Never set, and running on while the machine sleeps; where it begins means nothing."""
    chance: Callable[[], float] = random.random
    last_turn: float = field(default_factory=time.monotonic)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _timers: Timers = field(default_factory=Timers)
    _busy: dict[Subject, asyncio.Task[None]] = field(default_factory=dict)
    _failures: dict[Subject, int] = field(default_factory=dict)
    _not_before: dict[Subject, datetime] = field(default_factory=dict)
    _waiting: set[Key] = field(default_factory=set)
    _orders: dict[Key, Order] = field(default_factory=dict)
    """Orders that take a place which no bound pod takes yet; those under way to the server included."""
    _unanswered: set[Key] = field(default_factory=set)
    """Agents whose order could not be written, as far as was heard. It may stand, and the watch may be behind: before they are planned it
    is looked at, and until then its place is taken."""
    _batches: Batches = field(default_factory=Batches)
    _stopped: bool = False
    _cluster_at: datetime | None = None
    _sweep_at: datetime | None = None
    _ahead: timedelta | None = None
    """How far the wall clock is ahead of the steady one."""

    def __post_init__(self) -> None:
        self.store.on_dirty = self._news.set
        self._slots = asyncio.Semaphore(self.settings.concurrent_writes)

    async def run(self) -> None:
        """Plans and acts until `stop`."""
        while not self._stopped:
            self.turn()
            self.last_turn = time.monotonic()
            await self._sleep()

    async def stop(self, seconds: float) -> None:
        """Nothing new is planned, and what is under way has ended or, after `seconds`, is cancelled: any write may be a process's last."""
        self._stopped = True
        if self._busy:
            _, left = await asyncio.wait(list(self._busy.values()), timeout=seconds)
            for task in left:
                task.cancel()

    def turn(self) -> None:
        """Everything that is due now is planned, and its writes begin."""
        now, steady = self.clock(), self.steady()
        self._notice_clock(now - steady)
        self._sweep(steady)
        self.store.dirty |= self._timers.due(now)
        self.store.dirty |= self._batches.expired(steady)
        self._plan_namespaces(steady)
        self._plan_quotas(now, steady)
        self._plan_agents(now, steady)
        self._plan_exposures(steady)
        self._plan_bindings(now, steady)
        self._plan_release(steady)
        self._plan_cluster(now, steady)
        self.metrics.queue(dirty=len(self.store.dirty), busy=len(self._busy), waiting=len(self._waiting))

    async def settle(self) -> None:
        """Turns until nothing is due and nothing is under way. For tests: collecting and back-off pass at once when the clock does."""
        while True:
            self.turn()
            if self._busy:
                await asyncio.wait(list(self._busy.values()))
            elif not self._due(self.steady()):
                return

    def _due(self, now: datetime) -> bool:
        quotas = (Quotas(namespace) for namespace in self.store.dirty_quotas)
        bindings = (Bindings(namespace) for namespace in self.store.dirty_bindings)
        exposures = (Exposure(key) for key in self.store.dirty_exposures)
        dirty: list[Subject] = [*self.store.dirty, *self.store.dirty_namespaces, *quotas, *bindings, *exposures]
        return any(self._may(subject, now) for subject in dirty) or self._cycle_at is not None

    @property
    def _cycle_at(self) -> datetime | None:
        """When the cluster is to be planned; not before the claims of the last cycle are written."""
        return None if len(self._batches) else self._cluster_at

    async def _sleep(self) -> None:
        steady = self.steady()
        waits = [at - steady for at in (self._cycle_at, self._batches.until) if at is not None]
        waits += [at - steady for each in self._failures if (at := self._not_before.get(each, steady)) > steady]
        waits += [self._timers.next - self.clock()] if self._timers.next is not None else []
        seconds = min([LONGEST_SLEEP_SECONDS, *(wait.total_seconds() for wait in waits)])
        try:
            async with asyncio.timeout(max(seconds, 0.005)):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    # When.

    def _notice_clock(self, ahead: timedelta) -> None:
        """When the wall clock was set, what planners asked for by it means another moment: everything is planned anew."""
        if self._ahead is not None and abs(ahead - self._ahead) >= CLOCK_SET:
            log.warning("the wall clock was set by %+.0f s", (ahead - self._ahead).total_seconds())
            self._sweep_at = None
        if self._ahead is None or self._sweep_at is None:
            self._ahead = ahead

    def _sweep(self, steady: datetime) -> None:
        if self._sweep_at is None or steady >= self._sweep_at:
            self._sweep_at = steady + timedelta(seconds=self.settings.sweep_seconds)
            self.sweep()

    def sweep(self) -> None:
        """Everything is planned once, whether it changed or not."""
        self.store.dirty |= self.store.keys()
        self.store.dirty_namespaces |= self.store.namespaces()
        self.store.dirty_quotas |= {namespace for namespace, _ in self.store.quotas.views}
        self.store.dirty_bindings |= {namespace for namespace, _ in self.store.bindings.views}
        self.store.dirty_exposures |= {agent.key for agent in self.store.agents.views.values()}
        self.store.cluster_dirty = True

    def _may(self, subject: Subject, steady: datetime) -> bool:
        """Not while its writes are under way, nor before the end of its back-off."""
        return subject not in self._busy and self._not_before.get(subject, steady) <= steady

    # Planning.

    def _plan_namespaces(self, steady: datetime) -> None:
        for namespace in [n for n in self.store.dirty_namespaces if self._may(n, steady)]:
            self.store.dirty_namespaces.discard(namespace)
            self._begin(namespace, plan_namespace(self.store.namespace(namespace)))

    def _plan_quotas(self, now: datetime, steady: datetime) -> None:
        """Of each namespace no sooner than a moment after the last time: its quota's status follows a burst, not each of its Agents."""
        for subject in [Quotas(namespace) for namespace in self.store.dirty_quotas]:
            if self._may(subject, steady):
                self.store.dirty_quotas.discard(subject.namespace)
                if effects := plan_quotas(self.store.quota_state(subject.namespace), now):
                    self._not_before[subject] = steady + timedelta(seconds=self.settings.quota_status_seconds)
                    self._begin(subject, effects)

    def _plan_bindings(self, now: datetime, steady: datetime) -> None:
        """Of each namespace no sooner than a moment after the last time: what a binding says follows from all of its Agents."""
        for subject in [Bindings(namespace) for namespace in self.store.dirty_bindings]:
            if self._may(subject, steady):
                self.store.dirty_bindings.discard(subject.namespace)
                state = self.store.bindings_state(subject.namespace)
                if state.bindings:
                    self._not_before[subject] = steady + timedelta(seconds=self.settings.binding_status_seconds)
                    self._begin(subject, plan_bindings(state, now))

    def _plan_exposures(self, steady: datetime) -> None:
        for subject in [Exposure(key) for key in self.store.dirty_exposures]:
            if self._may(subject, steady):
                self.store.dirty_exposures.discard(subject.key)
                self._begin(subject, plan_exposure(self.store.state(subject.key)))

    def _plan_release(self, steady: datetime) -> None:
        """What lies in our own namespace: Leases of nodes of which nothing else is left, and what gateways are told of the cluster. That is
        written no sooner than a moment after the last time: a hundred nodes that join cost one write."""
        namespace = self.settings.lease_namespace
        if namespace is None:
            return  # nobody listens
        for node in [node for node in self.store.gone_nodes if self._may(GoneNode(node), steady)]:
            self.store.gone_nodes.discard(node)
            self._begin(GoneNode(node), [do.DeleteNodeLease(namespace, node)])
        ranges = self.store.ranges
        if ranges.dirty and self._may(Ranges(), steady):
            ranges.dirty = False
            cidrs = cluster_ranges(self.store.nodes.views.values(), ranges.services)
            if cidrs != ranges.published:
                self._not_before[Ranges()] = steady + timedelta(seconds=self.settings.ranges_seconds)
                self._begin(Ranges(), [do.PublishRanges(namespace, cidrs)])

    def _plan_agents(self, now: datetime, steady: datetime) -> None:
        dirty = self.store.dirty
        if not dirty:
            return
        began = time.perf_counter()
        urgent = [key for key in self._batches if key in dirty]
        for key in [*self.store.first, *urgent, *dirty]:
            if len(self._busy) >= self.settings.concurrent_writes:
                break
            if key in dirty and self._may(key, steady):
                self.metrics.queued(dirty.seconds(key))
                dirty.discard(key)
                self.store.first.discard(key)
                if key in self._unanswered:
                    self._busy[key] = asyncio.create_task(self._look(key))
                else:
                    self._plan_agent(key, now, steady)
        self.metrics.cycle("agents", time.perf_counter() - began)

    def _plan_agent(self, key: Key, now: datetime, steady: datetime) -> None:
        state = self.store.state(key)
        try:
            effects = plan_agent(state, now)
            order = standing_order(state, now)
        except Exception:  # one Agent that our planner can't take must not stop the others
            log.exception("%s/%s can't be planned", *key)
            self._back_off(key, None)
            return
        self._keep_order(key, order)
        waited = key in self._waiting
        self._waiting.discard(key)
        for effect in effects:
            if isinstance(effect, do.NeedsPlace):
                self._waiting.add(key)
                self.store.cluster_dirty = True
            elif isinstance(effect, do.Wait):
                self.store.set_refusal(key, effect.refusal)
            elif isinstance(effect, do.PlanAgainAt):
                self._timers.add(key, effect.at)
        if waited and key not in self._waiting:
            self.store.cluster_dirty = True  # what would help those behind it is less now
        if state.agent is None and not (state.runtime or state.claims or state.pods):
            self._forget(key)
        if any(isinstance(e, do.CreatePod) for e in effects) and self._batches.holds(key, steady):
            effects = [e for e in effects if not isinstance(e, do.CreatePod)]
        if order is None or any(claim.attempt == order.runtime.attempt for claim in state.claims):
            self._leave_batch(key)
        self._begin(key, [e for e in effects if isinstance(e, (*_WRITES, do.RecordEvent, do.Exclude))])

    def _leave_batch(self, key: Key) -> None:
        if released := self._batches.leave(key):
            self.store.dirty |= released
            self._news.set()

    def _plan_cluster(self, now: datetime, steady: datetime) -> None:
        """Places for those who wait, once what changed has been collected."""
        if not (self.store.cluster_dirty and self._waiting):
            self._cluster_at = None
            return
        if self._cluster_at is None:
            self._cluster_at = steady + timedelta(seconds=self.settings.cycle_seconds)
            return
        if self._cycle_at is None or steady < self._cycle_at:
            return
        began = time.perf_counter()
        self._refresh_orders(now, steady)
        self._cluster_at, self.store.cluster_dirty = None, False
        # Who has changed and was not planned since may not want a place any more.
        still = self._waiting.difference(self._busy, self.store.dirty)
        states = [self.store.state(key) for key in sorted(still)]
        unlimited = self.settings.without_quota == "Unlimited"
        view = self.store.cluster(states, self._unsettled(now, steady), self._orders.values(), now, unlimited_without_quota=unlimited)
        effects = plan_cluster(view, now, self.settings.batch_agents)
        self.metrics.cycle("cluster", time.perf_counter() - began)
        placed = [effect.key for effect in effects if isinstance(effect, do.ApplyRuntime)]
        self.store.dirty |= self._batches.begin(placed, steady)
        self.store.cluster_dirty |= len(placed) == self.settings.batch_agents
        by_key: dict[Key, AgentState] = {state.key: state for state in states}
        for effect in effects:
            if isinstance(effect, do.Wait):
                self._refuse(effect)
            elif isinstance(effect, do.ApplyRuntime):
                self._place(by_key[effect.key], effect)
            elif isinstance(effect, do.PlanAgainAt):
                self._timers.add(effect.key, effect.at)

    def _unsettled(self, now: datetime, steady: datetime) -> list[AgentState]:
        """Who needs a place, and is written or has changed since it was planned. Not who is in the back-off: nobody waits for that."""
        keys = [key for key in {*self._busy, *self.store.dirty} if isinstance(key, Key) and key not in self._orders]
        found: list[AgentState] = []
        for key in keys:
            if key in self._unanswered or not (key in self._busy or self._may(key, steady)):
                continue
            try:
                found += waiting([self.store.state(key)], now)
            except Exception:  # its own planning says it again, and backs off
                log.exception("%s/%s: whether it needs a place can't be told", *key)
        return found

    def _refresh_orders(self, now: datetime, steady: datetime) -> None:
        """What was booked since an Agent was planned last does not count twice.

        Who is in the back-off, or had no answer, keeps the order as it is: it may stand.
        """
        for key in [key for key in self._orders.keys() - self._unanswered if key in self.store.dirty and self._may(key, steady)]:
            try:
                order = standing_order(self.store.state(key), now)
            except Exception:  # the Agent's own planning will say it again, and back off
                log.exception("%s/%s: what its order takes can't be told anew", *key)
                continue
            self._keep_order(key, order)

    def _refuse(self, effect: do.Wait) -> None:
        if effect.refusal is not None:
            self.metrics.decision(effect.refusal.reason)
            if self.store.refusals.get(effect.key) != effect.refusal:
                self.reporter.refused(effect.key, effect.refusal)
            # A node that was left out for a while is looked at again when that while is over.
            for exclusion in self.store.exclusions.get(effect.key, ()):
                self._timers.add(effect.key, exclusion.until)
        self.store.set_refusal(effect.key, effect.refusal)

    def _place(self, state: AgentState, effect: do.ApplyRuntime) -> None:
        assert state.agent is not None, "only Agents that exist wait"
        self._waiting.discard(effect.key)
        under_way = {"uid": effect.uid or "", "resourceVersion": "0", **effect.body["metadata"]}
        order = parse.runtime({**effect.body, "metadata": under_way})
        self._orders[effect.key] = Order(order, state.agent.requests, allocated=False)
        self._begin(effect.key, [effect])

    def _keep_order(self, key: Key, order: Order | None) -> None:
        if order is not None:
            self._orders[key] = order
        elif self._orders.pop(key, None) is not None:
            self.store.cluster_dirty = True

    # Acting.

    def _begin(self, subject: Subject, effects: Sequence[do.Effect]) -> None:
        if effects:
            self._busy[subject] = asyncio.create_task(self._work(subject, effects))

    async def _work(self, subject: Subject, effects: Sequence[do.Effect]) -> None:
        """Performs `effects` in their order, up to the first that fails."""
        try:
            async with self._slots:
                for effect in effects:
                    await self._perform(effect)
            if self._failures.pop(subject, None) is not None:
                self._not_before.pop(subject, None)
        except ApiError as error:
            self._note_unanswered(subject, effects)
            self._back_off(subject, error)
        except Exception:
            log.exception("%s: an effect could not be performed", named(subject))
            self._note_unanswered(subject, effects)
            self._back_off(subject, None)
        finally:
            del self._busy[subject]
            self._news.set()

    def _note_unanswered(self, subject: Subject, failed: Sequence[do.Effect]) -> None:
        if isinstance(subject, Key) and any(isinstance(effect, do.ApplyRuntime) for effect in failed):
            self._unanswered.add(subject)

    async def _look(self, key: Key) -> None:
        """What the server has of the Agent's order is known, and the Agent is planned from it."""
        try:
            await self.executor.look_at_order(key)
            self._unanswered.discard(key)
            self.store.dirty.add(key)
        except ApiError as error:
            self._back_off(key, error)
        except Exception:
            log.exception("%s: its order could not be looked at", named(key))
            self._back_off(key, None)
        finally:
            del self._busy[key]
            self._news.set()

    async def _perform(self, effect: do.Effect) -> None:
        if isinstance(effect, do.RecordEvent):
            self.reporter.record(effect)
        elif isinstance(effect, do.Exclude):
            self.store.exclude(effect.key, effect.exclusion)
        elif isinstance(effect, _WRITES):
            await self.executor.perform(effect)
            if isinstance(effect, do.CreateClaim):
                self._leave_batch(effect.key)
            self.metrics.decision(type(effect).__name__)
            self.reporter.done(effect)

    def _back_off(self, subject: Subject, error: ApiError | None) -> None:
        failures = self._failures[subject] = self._failures.get(subject, 0) + 1
        wait = self.settings.retry.wait(failures, self.chance, error.retry_after_seconds if error else None)
        self._not_before[subject] = self.steady() + timedelta(seconds=wait)
        if isinstance(subject, Key):
            self._leave_batch(subject)
        plan_again(subject, self.store)
        if error is not None:
            self.metrics.decision("Failed")
            log.warning("%s: %s; tried again in %.1f s", named(subject), error, wait)

    def _forget(self, key: Key) -> None:
        self.store.forget(key)
        for known in (self._failures, self._not_before):
            known.pop(key, None)
            known.pop(Exposure(key), None)
        self._orders.pop(key, None)
        self._unanswered.discard(key)
