"""`signal` as C has it: plain numbers, where `signal` makes an enum of each, 2 ms of every start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403 - the whole module
else:
    from _signal import *  # noqa: F403
