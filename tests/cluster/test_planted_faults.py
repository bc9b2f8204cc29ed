"""Plant faults in the cluster's logic, one at a time: the simulated cluster must notice each within a few seeds.

A checker that cannot fail checks nothing. Each fault is something one could get wrong, and names how it shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from symphony.cluster import accepting
from symphony.cluster.accepting import Ingress
from symphony.cluster.distance import Distance
from symphony.cluster.executing import Executor
from symphony.cluster.leading import Leader
from symphony.cluster.protocol import Inputs
from symphony.cluster.serving import ClusterNode
from tests.cluster.simulated.run import run

pytestmark = pytest.mark.slow

SEED_COUNT_MAX = 80


def gives_inputs_to_everyone(patch: pytest.MonkeyPatch) -> None:
    def fetch(self, now_ns, executor, message) -> None:
        for key in message.requests:
            if key in self._requests:
                self._requests[key].claim = (executor, message.term, message.plan_id)
        given = tuple(key for key in message.requests if key in self._requests)
        denied = tuple(key for key in message.requests if key not in self._requests)
        self._send(executor, Inputs(message.term, message.plan_id, given, denied))

    patch.setattr(Ingress, "fetch", fetch)


def gives_inputs_of_what_is_over(patch: pytest.MonkeyPatch) -> None:
    def fetch(self, now_ns, executor, message) -> None:
        self._send(executor, Inputs(message.term, message.plan_id, tuple(message.requests), ()))

    patch.setattr(Ingress, "fetch", fetch)


def answers_again_what_is_over(patch: pytest.MonkeyPatch) -> None:
    def outputs(self, executor, message) -> None:
        for key in message.requests:
            self._take(key)
        self._actions.append(accepting.Answer(tuple(message.requests), executor))

    patch.setattr(Ingress, "outputs", outputs)


def forgets_generations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accepting, "next_key", lambda key: key)


def never_fails_what_is_overdue(patch: pytest.MonkeyPatch) -> None:
    def wake(self, now_ns) -> None:
        while self._ticks and self._ticks[0] * accepting._TICK_NS <= now_ns:
            self._watched.pop(self._ticks.pop(0))

    patch.setattr(Ingress, "wake", wake)


def loses_slots(patch: pytest.MonkeyPatch) -> None:
    original = Ingress._take

    def take(self, key, **how):
        request = original(self, key, **how)
        if request is not None:
            self._free.pop()
        return request

    patch.setattr(Ingress, "_take", take)


def begins_two_batches(patch: pytest.MonkeyPatch) -> None:
    original = Executor._advance

    def advance(self, now_ns, gpu) -> None:
        original(self, now_ns, gpu)
        queue = self._queues[gpu]
        if len(queue) > 1 and queue[1].ready and not queue[1].has_begun:
            self._begin(now_ns, queue[1])

    patch.setattr(Executor, "_advance", advance)


def begins_plans_of_old_terms(patch: pytest.MonkeyPatch) -> None:
    def discard_older(self, now_ns, term) -> None:
        for each in [each for each in self._newest_plan if 0 < each < term]:
            del self._newest_plan[each]

    patch.setattr(Executor, "discard_older", discard_older)
    begins_plans_however_late(patch)  # else most are too late by then


def keeps_plans_that_ended(patch: pytest.MonkeyPatch) -> None:
    def end(self, at_ns, held) -> None:
        self._queues[held.plan.gpu].remove(held)
        self._report_end(at_ns, held)

    patch.setattr(Executor, "_end", end)


def runs_without_inputs(patch: pytest.MonkeyPatch) -> None:
    original = Executor.accept

    def accept(self, now_ns, term, plan, *times) -> None:
        original(self, now_ns, term, plan, *times)
        held = self._plans.get((term, plan.plan_id))
        if held is not None and not held.has_begun:
            held.ready += held.waiting
            held.waiting = set()
            self._advance(now_ns, plan.gpu)

    patch.setattr(Executor, "accept", accept)


def keeps_using_a_lost_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Executor, "set_usable", lambda self, now_ns, gpu, is_usable: None)


def reports_no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Executor, "_report_end", lambda self, at_ns, held: None)


def leads_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leader, "renewed", lambda self, held_until_ns: setattr(self, "_held_until_ns", 1 << 60))


def loses_ids(patch: pytest.MonkeyPatch) -> None:
    def leave(self, id_):
        entry = self._entries.pop(id_)
        del entry.node.queued[entry.key]
        return entry

    patch.setattr(Leader, "_leave", leave)


def forgets_what_nodes_queued(patch: pytest.MonkeyPatch) -> None:
    original = Leader._forget

    def forget(self, now_ns, node) -> None:
        node.queued = {}
        original(self, now_ns, node)

    patch.setattr(Leader, "_forget", forget)


def frees_no_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClusterNode, "_release", lambda self: self._kept_back.clear())


def follows_leaders_that_are_over(patch: pytest.MonkeyPatch) -> None:
    def plans(self, peer, message) -> None:
        for plan in message.plans:
            self._executor.accept(self._now_ns, message.term, plan, self._now_ns, 1 << 60)

    patch.setattr(ClusterNode, "_plans", plans)
    gives_inputs_to_everyone(patch)  # else its inputs are denied, and nothing comes of the plan


def never_asks_again(patch: pytest.MonkeyPatch) -> None:
    original = ClusterNode._go_alone

    def go_alone(self) -> None:
        self._target = None
        original(self)

    patch.setattr(ClusterNode, "_go_alone", go_alone)


def hears_no_new_term(patch: pytest.MonkeyPatch) -> None:
    def see_term(self, term) -> None:
        self.newest_term = max(self.newest_term, term)

    patch.setattr(ClusterNode, "_see_term", see_term)


def takes_clocks_for_equal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Distance, "here_at_latest_ns", lambda self, there_at_ns: there_at_ns)


def leaves_the_own_core_its_gpus(patch: pytest.MonkeyPatch) -> None:
    """Alone, no GPU comes back to the own core."""
    original = ClusterNode._take_gpus

    def take_gpus(self) -> None:
        if self._now_ns == 0:
            original(self)

    patch.setattr(ClusterNode, "_take_gpus", take_gpus)


def begins_plans_however_late(patch: pytest.MonkeyPatch) -> None:
    original = Executor.accept

    def accept(self, now_ns, term, plan, start_at_ns, latest_at_ns) -> None:
        original(self, now_ns, term, plan, start_at_ns, 1 << 60)

    patch.setattr(Executor, "accept", accept)


PLANTED = [
    gives_inputs_to_everyone,
    gives_inputs_of_what_is_over,
    answers_again_what_is_over,
    forgets_generations,
    never_fails_what_is_overdue,
    loses_slots,
    begins_two_batches,
    begins_plans_of_old_terms,
    keeps_plans_that_ended,
    runs_without_inputs,
    keeps_using_a_lost_gpu,
    reports_no_end,
    leads_for_ever,
    loses_ids,
    forgets_what_nodes_queued,
    frees_no_gpu,
    follows_leaders_that_are_over,
    never_asks_again,
    hears_no_new_term,
    takes_clocks_for_equal,
    leaves_the_own_core_its_gpus,
    begins_plans_however_late,
]


BITES = {
    gives_inputs_to_everyone: ("cut_link", "slow_gpu", "reset_link"),
    never_fails_what_is_overdue: ("slow_gpu", "pause_node", "slow_link"),
    begins_plans_of_old_terms: ("revoke_lease", "slow_gpu"),
    begins_plans_however_late: ("slow_gpu",),
    follows_leaders_that_are_over: ("revoke_lease",),
    hears_no_new_term: ("revoke_lease",),
}
"""Faults of the surroundings under which the planted one shows soon; the others show under those of the seeds."""


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_simulated_cluster_notices(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch) -> None:
    plant(monkeypatch)
    for seed in range(SEED_COUNT_MAX):
        try:
            report = run(seed, BITES.get(plant))
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return
        if not report.has_recovered:
            print(f"seed {seed}: only {report.recovered_share:.3f} good")
            return
    pytest.fail(f"{SEED_COUNT_MAX} runs did not notice")
