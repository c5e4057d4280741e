"""Who stands at the gate: in which class and in which group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.admission import admission
from ..core.codel import Codel
from ..core.config import PoolConfig
from ..core.gate import CROWD, Gate
from ..core.groups import UNIT, Groups
from ..core.ledger import Owner, name_of, running_unit
from ..core.ticket import Ticket

if TYPE_CHECKING:
    from .entry import PoolEntry


def make_gate(config: PoolConfig, clock: Callable[[], float]) -> Gate[PoolEntry]:
    codel = groups = None
    size = config.max_size
    if config.queue_target is not None:
        codel = Codel(
            target=config.queue_target, interval=config.queue_interval, keep=size, crowd=CROWD * size, clock=clock
        )
    if config.groups is not None:
        by = config.groups.by
        assert callable(by) or by == UNIT, "dotted paths are imported by who reads the settings"
        groups = Groups["PoolEntry"](config.groups, by if callable(by) else name_of)
    return Gate(
        max_size=size,
        max_waiting=config.max_waiting,
        reserve_size=config.reserve_size,
        codel=codel,
        groups=groups,
        clock=clock,
    )


def ticket_for(owner: Owner, gate: Gate[PoolEntry], priority: bool) -> Ticket[PoolEntry]:
    """
    Args:
        priority: whatever the caller is marked as, it has at least that.
    """
    marked = admission.get()
    group = None
    if gate.groups is not None and not marked.reserved:
        group = gate.groups.key_of(marked.group, running_unit())
    return Ticket(owner, priority or marked.priority, reserved=marked.reserved, group=group)
