"""When a machine may be frozen: seen in a real process that works, and then rests."""

import subprocess
import sys
import time

from vmm import freeze

_WORKS_1_S = "import time; until = time.monotonic() + 1\nwhile time.monotonic() < until: pass\ntime.sleep(60)"


def test_a_guest_is_at_rest_when_its_work_is_over() -> None:
    with subprocess.Popen([sys.executable, "-c", _WORKS_1_S]) as guest:
        try:
            time.sleep(0.2)
            began = time.monotonic()
            at = freeze._await_rest(guest.pid)
            assert 0.5 < at - began < 5.0
            assert time.monotonic() - at >= freeze._REST_S, "seen to rest for a while"
        finally:
            guest.kill()
