"""What the gate does beside first come, first served: classes, the reserve, limits of groups, shedding."""

from __future__ import annotations

from typing import Any

import pytest

from django_dbpool.core.codel import Codel
from django_dbpool.core.gate import CROWD, Gate
from django_dbpool.core.groups import GroupLimits, Groups
from django_dbpool.core.ticket import DeadlinePassed, GroupIsFull, QueueIsFull, QueueStandsTooLong, Ticket

TARGET, INTERVAL = 0.05, 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Pool:
    """A gate, and tickets that wait without a thread: their callers are at the deadline and have not left yet."""

    def __init__(self, *, codel: bool = False, groups: GroupLimits | None = None, **sizes: int) -> None:
        self.clock = Clock()
        size = sizes.setdefault("max_size", 2)
        shedding = Codel(target=TARGET, interval=INTERVAL, keep=size, crowd=CROWD * size, clock=self.clock)
        self.gate: Gate[str] = Gate(
            **sizes,
            codel=shedding if codel else None,
            groups=Groups(groups, lambda unit: unit) if groups is not None else None,
            clock=self.clock,
        )

    def take(self, **kind: Any) -> Ticket[str]:
        """Granted at once."""
        ticket: Ticket[str] = Ticket(**kind)
        self.gate.enter(ticket, self.clock.now)
        assert ticket.granted
        return ticket

    def queue(self, expected: type[DeadlinePassed] = DeadlinePassed, **kind: Any) -> Ticket[str]:
        ticket: Ticket[str] = Ticket(**kind)
        with pytest.raises(DeadlinePassed) as caught:
            self.gate.enter(ticket, self.clock.now)
        assert caught.type is expected
        return ticket

    def refused(self, expected: type[Exception], **kind: Any) -> None:
        ticket: Ticket[str] = Ticket(**kind)
        with pytest.raises(expected):
            self.gate.enter(ticket, self.clock.now)
        self.gate.abandon(ticket)

    def full(self) -> list[Ticket[str]]:
        return [self.take() for _ in range(self.gate.max_size)]


# -- the reserve -----------------------------------------------------------------------------------------------------


def test_the_reserve_is_for_reserved_tickets_that_find_all_else_in_use() -> None:
    pool = Pool(reserve_size=1)
    first = pool.take(reserved=True)
    assert not first.from_reserve, "an ordinary connection was to be had"
    pool.take()
    ordinary = pool.queue()
    reserved = pool.take(reserved=True)
    assert reserved.from_reserve
    assert (pool.gate.size, pool.gate.reserve_used, ordinary.granted) == (2, 1, False)
    pool.queue(reserved=True)
    pool.queue(priority=True)


def test_what_comes_back_to_the_reserve_is_given_to_nobody_else() -> None:
    pool = Pool(reserve_size=1)
    pool.full()
    ordinary, hook = pool.queue(), pool.queue(priority=True)
    pool.take(reserved=True)
    pool.gate.give_to_reserve("r")
    assert not (ordinary.granted or hook.granted)
    again = pool.take(reserved=True)
    assert (again.entry, again.from_reserve) == ("r", True)
    waits = pool.queue(reserved=True)
    pool.gate.give_to_reserve("r")
    assert (waits.entry, waits.from_reserve, ordinary.granted) == ("r", True, False)


def test_a_permit_of_the_reserve_that_is_not_used_goes_back_to_it() -> None:
    pool = Pool(reserve_size=1)
    pool.full()
    ordinary = pool.queue()
    reserved = pool.take(reserved=True)
    assert pool.gate.abandon(reserved) is None
    assert (pool.gate.size, pool.gate.reserve_used, ordinary.granted) == (2, 0, False)
    pool.take(reserved=True)
    pool.gate.forfeit(from_reserve=True)
    assert (pool.gate.size, pool.gate.reserve_used, ordinary.granted) == (2, 0, False)


def test_a_reserved_ticket_is_first_for_an_ordinary_connection_too() -> None:
    pool = Pool(reserve_size=0)
    pool.full()
    ordinary, hook, reserved = pool.queue(), pool.queue(priority=True), pool.queue(reserved=True)
    for ticket in (reserved, hook, ordinary):
        assert not ticket.granted
        pool.gate.give("a")
        assert (ticket.granted, ticket.from_reserve) == (True, False)


def test_a_full_server_closes_the_reserve_until_there_is_room() -> None:
    pool = Pool(reserve_size=1)
    pool.full()
    refused = pool.take(reserved=True)
    pool.gate.lower_ceiling(2, 0)
    pool.gate.abandon(refused)
    waits = pool.queue(reserved=True)
    assert pool.gate.below_its_size
    assert pool.gate.raise_ceiling()
    assert (waits.granted, waits.from_reserve) == (True, True)
    assert not pool.gate.raise_ceiling()


def test_the_longest_queue_has_room_for_reserved_tickets() -> None:
    pool = Pool(reserve_size=0, max_waiting=1)
    pool.full()
    pool.queue()
    pool.refused(QueueIsFull)
    pool.refused(QueueIsFull, priority=True)
    pool.queue(reserved=True)


# -- shedding --------------------------------------------------------------------------------------------------------


def overloaded() -> tuple[Pool, list[Ticket[str]]]:
    pool = Pool(codel=True, reserve_size=1)
    pool.full()
    waiting = [pool.queue() for _ in range(CROWD * 2 + 4)]
    pool.clock.now += INTERVAL
    pool.gate.serve()
    return pool, waiting


def test_a_crowd_that_nobody_serves_for_an_interval_is_shed_but_for_a_round_of_the_connections() -> None:
    pool, waiting = overloaded()
    kept = waiting[-2:]
    assert [ticket.refused for ticket in waiting[:-2]] == [QueueStandsTooLong] * 10
    assert [ticket.refused for ticket in kept] == [None, None]
    assert pool.gate.waiting == 2
    pool.refused(QueueStandsTooLong)
    pool.gate.give("a")
    assert kept[0].granted
    pool.queue()


def test_neither_hooks_nor_reserved_tickets_are_shed() -> None:
    pool, _ = overloaded()
    hooks = [pool.queue(priority=True) for _ in range(20)]
    assert pool.take(reserved=True).from_reserve
    reserved = [pool.queue(reserved=True) for _ in range(20)]
    pool.clock.now += 10 * INTERVAL
    pool.gate.serve()
    assert not any(ticket.refused for ticket in (*hooks, *reserved))


@pytest.mark.parametrize("waiting", [1, CROWD * 2 - 1])
def test_a_short_queue_is_never_shed_however_long_it_stands(waiting: int) -> None:
    pool = Pool(codel=True)
    pool.full()
    tickets = [pool.queue() for _ in range(waiting)]
    for _ in range(600):
        pool.clock.now += 0.1
        pool.gate.serve()
    assert not any(ticket.refused for ticket in tickets)


def test_nobody_is_shed_while_no_connection_can_be_made() -> None:
    """The queue of an outage is gone soon after it."""
    pool = Pool(codel=True)
    pool.full()
    tickets = [pool.queue() for _ in range(50)]
    for _ in range(20):
        pool.clock.now += 1.0
        pool.gate.serve()
        pool.gate.excuse()
    assert not any(ticket.refused for ticket in tickets)
    for ticket in tickets:
        pool.clock.now += 0.01
        pool.gate.give("a")
        assert ticket.granted


def test_threads_that_wait_for_each_other_are_no_overload() -> None:
    """32 threads on 8 connections, each lease 0.2 s, for five minutes: each waits 0.6 s and is served."""
    pool = Pool(codel=True, max_size=8)
    pool.full()
    waiting = [pool.queue() for _ in range(24)]
    for _ in range(8 * 5 * 60 * 5):
        pool.clock.now += 0.2 / 8
        pool.gate.give("a")
        assert waiting.pop(0).granted
        waiting.append(pool.queue())


def test_whoever_is_shed_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(codel=True)
    pool.full()
    others = [pool.queue() for _ in range(CROWD * 2)]

    def late() -> None:
        pool.clock.now += 1.0
        pool.gate.serve()

    monkeypatch.setattr("django_dbpool.core.gate.WAIT_SLICE", 0.001)
    ticket: Ticket[str] = Ticket()
    waiting = [*others[1:], ticket]
    with pytest.raises(QueueStandsTooLong):
        # The last in the queue goes when those before it have: keep nobody.
        pool.gate.codel.keep = 0  # type: ignore[union-attr]
        pool.gate.enter(ticket, pool.clock.now + 30, late)
    assert all(ticket.refused is QueueStandsTooLong for ticket in waiting)


def test_resizing_changes_what_a_crowd_is() -> None:
    pool = Pool(codel=True, max_size=2)
    pool.gate.resize(5)
    codel = pool.gate.codel
    assert codel is not None
    assert (codel.keep, codel.crowd) == (5, CROWD * 5)


# -- groups ----------------------------------------------------------------------------------------------------------

BATCH = GroupLimits({"batch": 1, "reports/*": 2})


def test_whoever_is_over_its_groups_limit_is_in_nobodys_way() -> None:
    pool = Pool(groups=BATCH, max_size=3)
    pool.take(group="batch")
    parked = pool.queue(GroupIsFull, group="batch")
    pool.take()
    pool.take(group="reports/*")
    assert not parked.granted
    waits = pool.queue()
    pool.gate.give("a")  # of the one without a group
    assert (waits.granted, parked.granted) == (True, False)


def test_the_end_of_a_members_lease_lets_the_next_one_in() -> None:
    pool = Pool(groups=BATCH, max_size=3)
    member = pool.take(group="batch")
    first, second = pool.queue(GroupIsFull, group="batch"), pool.queue(GroupIsFull, group="batch")
    for _ in range(2):
        pool.gate.leave(member)  # twice is harmless
    pool.gate.give("a")
    assert (first.granted, second.granted) == (True, False)
    pool.gate.leave(first)
    pool.gate.give("a")
    assert second.granted


def test_a_member_that_queues_for_a_connection_counts() -> None:
    """Else a group could fill the queue, and others would wait behind it."""
    pool = Pool(groups=BATCH, max_size=1)
    pool.take()
    member = pool.queue(group="batch")
    parked = pool.queue(GroupIsFull, group="batch")
    pool.gate.abandon(member)
    assert pool.gate.waiting == 1
    pool.gate.give("a")
    assert parked.granted


def test_hooks_go_first_within_their_group() -> None:
    pool = Pool(groups=BATCH, max_size=3)
    member = pool.take(group="batch")
    ordinary = pool.queue(GroupIsFull, group="batch")
    hook = pool.queue(GroupIsFull, group="batch", priority=True)
    pool.gate.leave(member)
    assert (hook.granted, ordinary.granted) == (True, False)


def test_a_newcomer_does_not_overtake_those_of_its_group() -> None:
    pool = Pool(groups=BATCH, max_size=3)
    member = pool.take(group="batch")
    parked = pool.queue(GroupIsFull, group="batch")
    group = pool.gate.groups.get("batch")  # type: ignore[union-attr]
    assert group is not None
    group.members.discard(member)  # as between leave() and the look at those that wait
    newcomer = pool.queue(GroupIsFull, group="batch")
    assert (parked.granted, newcomer.granted) == (True, False)


@pytest.mark.parametrize("how", ["leave", "abandon"])
def test_a_group_without_members_is_forgotten(how: str) -> None:
    """By client there may be millions."""
    pool = Pool(groups=GroupLimits(default=1), max_size=3)
    for client in range(10):
        ticket = pool.take(group=f"client {client}")
        getattr(pool.gate, how)(ticket)
        pool.gate.correct(pool.gate.counted(), 0, 0)
        assert pool.gate.members() == set()
        assert pool.gate.groups.items() == []  # type: ignore[union-attr]


def test_max_waiting_holds_for_each_group_and_for_the_queue() -> None:
    """Batches that wait for their limit must not use up the room for pages."""
    pool = Pool(groups=BATCH, max_size=1, max_waiting=2)
    pool.take(group="batch")
    for _ in range(2):
        pool.queue(GroupIsFull, group="batch")
    pool.refused(QueueIsFull, group="batch")
    for _ in range(2):
        pool.queue()
    pool.refused(QueueIsFull)
    assert pool.gate.group_numbers("batch") == (1, 1, 2)


def test_those_that_wait_for_their_group_are_no_overload() -> None:
    pool = Pool(groups=BATCH, codel=True, max_size=1)
    pool.take(group="batch")
    parked = [pool.queue(GroupIsFull, group="batch") for _ in range(30)]
    pool.clock.now += 5 * INTERVAL
    pool.gate.serve()
    assert not any(ticket.refused for ticket in parked)


def test_everybody_goes_when_the_gate_is_cleared_or_closed() -> None:
    pool = Pool(groups=BATCH, reserve_size=0)
    pool.full()
    for kind in ({}, {"reserved": True}, {"priority": True}, {"group": "batch"}):
        pool.queue(**kind)
    pool.queue(GroupIsFull, group="batch")
    assert pool.gate.waiting == 5
    pool.gate.refuse_queued()
    assert pool.gate.waiting == 0
    pool.queue()
    pool.gate.close()
    assert pool.gate.waiting == 0


def test_with_groups_nobody_takes_the_fast_way_and_the_pool_may_still_grow() -> None:
    pool = Pool(groups=BATCH)
    assert pool.gate.attention == 1
    assert pool.gate.grow(1)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("batch", ("batch", 1)),
        ("reports/", ("reports/*", 2)),
        ("reports/<int:pk>/", ("reports/*", 2)),
        ("reports", None),
        ("^a/(?P<y>[0-9]*)/$", ("^a/(?P<y>[0-9]*)/$", 3)),
        ("x.tasks.send.now", ("*.send.*", 4)),
        (".send.", ("*.send.*", 4)),
        (".send", None),
        ("aba", None),
        ("abab", ("ab*ab", 5)),
        ("", None),
    ],
)
def test_names_and_patterns(name: str, found: tuple[str, int] | None) -> None:
    limits = {"reports/*": 2, "batch": 1, "^a/(?P<y>[0-9]*)/$": 3, "*.send.*": 4, "ab*ab": 5}
    assert GroupLimits(limits).find(name) == found
    assert GroupLimits(limits, default=9).find(name) == (found or (name, 9))


def test_the_function_may_ask_the_database_itself() -> None:
    asked: list[object] = []

    def name_of(unit: object) -> object:
        asked.append(groups.key_of(None, unit))
        return 7

    groups: Groups[str] = Groups(GroupLimits(default=1), name_of)
    assert groups.key_of(None, "unit") == "7"
    assert asked == [None]
    assert groups.key_of("marked", "unit") == "marked"


def test_a_function_that_fails_is_asked_again() -> None:
    def fails(unit: object) -> object:
        raise KeyError(unit)

    groups: Groups[str] = Groups(GroupLimits(default=1), fails)
    for _ in range(2):
        with pytest.raises(KeyError):
            groups.key_of(None, "unit")


def test_a_grant_that_was_interrupted_is_completed() -> None:
    """Whoever serves the queue may be struck between taking something for a ticket and saying so."""
    pool = Pool(max_size=1, reserve_size=1)
    pool.take()
    reserve = pool.take(reserved=True)
    assert reserve.from_reserve
    first, second = pool.queue(reserved=True), pool.queue(reserved=True)
    first.entry, second.from_reserve = "taken", True
    pool.gate.give("given")
    assert (first.granted, first.entry) == (True, "taken")
    assert (second.granted, second.entry, second.from_reserve) == (True, "given", False)
