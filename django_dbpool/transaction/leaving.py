"""How a ``with`` block is being left, seen from its ``__exit__``."""

from __future__ import annotations

import dis
from itertools import pairwise
from types import FrameType


def goes_round(frame: FrameType) -> bool:
    """
    Whether the ``with`` statement that the frame is just leaving is the last one of a round of a ``for`` loop, and
    was left by its end or by ``continue``. False also where that can't be seen.

    Python tells ``__exit__`` of exceptions, not of ``return`` and ``break``: only the bytecode shows where it goes on.
    """
    instructions = {each.offset: each for each in dis.get_instructions(frame.f_code)}
    following = dict(pairwise(instructions))
    offset = following.get(frame.f_lasti)
    if offset is None or instructions[offset].opname != "POP_TOP":  # the result of __exit__
        return False
    offset = following.get(offset)
    while offset is not None:
        each = instructions[offset]
        if each.opname.startswith("JUMP_BACKWARD"):
            return _after_extensions(instructions, each.argval) == "FOR_ITER"
        if each.opname == "JUMP_FORWARD":  # forward only, so it comes to an end
            offset = each.argval
        elif each.opname in ("NOP", "EXTENDED_ARG"):
            offset = following.get(offset)
        else:
            return False
    return False


def _after_extensions(instructions: dict[int, dis.Instruction], offset: int) -> str:
    while instructions[offset].opname == "EXTENDED_ARG":
        offset += 2
    return instructions[offset].opname
