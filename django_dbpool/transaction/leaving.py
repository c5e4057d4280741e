"""How a ``with`` block is being left, seen from its ``__exit__``."""

from __future__ import annotations

import dis
from types import FrameType


def goes_round(frame: FrameType) -> bool:
    """
    Whether the ``with`` statement that the frame is just leaving is the last one of a round of a ``for`` loop, and
    was left by its end or by ``continue``. False also where that can't be seen.

    Python tells ``__exit__`` of exceptions, not of ``return`` and ``break``: only the bytecode shows where it goes on.
    """
    instructions = {each.offset: each for each in dis.get_instructions(frame.f_code)}
    following = sorted(offset for offset in instructions if offset > frame.f_lasti)
    if not following or instructions[following[0]].opname != "POP_TOP":  # the result of __exit__
        return False
    for offset in following[1:]:
        each = instructions[offset]
        if each.opname in ("NOP", "EXTENDED_ARG"):
            continue
        if not each.opname.startswith("JUMP_BACKWARD"):
            return False
        target = instructions.get(each.argval)
        while target is not None and target.opname == "EXTENDED_ARG":
            target = instructions.get(target.offset + 2)
        return target is not None and target.opname == "FOR_ITER"
    return False
