"""Fuzzing for as long as one likes: `python -m tests.fuzz SECONDS [flags of pytest]`, which `make fuzz` runs.

Each round runs the tests that try what hypothesis makes, with more examples than `make test` and a seed of its own,
which a failure names. The last line is the verdict. Memory is looked at between rounds: it may not grow.
"""

import gc
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

FILES = ("tests/test_fuzz.py", "tests/test_fuzz_codec.py", "tests/test_laws.py")
APART = ("tests/test_openapi.py",)
"""Each round in a process of its own: schemathesis keeps what it has made, some ten MiB a round, which is no growth of
the server's."""
FACTOR = 4
"""Examples of one test in one round, as a multiple of those in `make test`: a round takes about a minute."""
GROWTH_BYTES_MAX = 64 * 1024 * 1024
"""After the first two rounds, which fill what is filled once."""
WARM_UP_ROUNDS = 2
ROUND_S = 600
GOES_ON = (0, 1, 5)
"""What pytest's exit statuses may be: all passed, some failed, or the flags chose none of these files' tests."""


class Count:
    """A plugin of pytest that counts what it ran."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: object) -> None:
        if getattr(report, "failed", False):
            self.failed.append(getattr(report, "nodeid", ""))
        elif getattr(report, "when", "") == "call":
            self.passed += 1


def main(seconds: float, flags: list[str]) -> int:
    os.environ["FUZZ_FACTOR"] = str(FACTOR)
    import pytest  # the tests read the factor when they are imported

    count, began, resident = Count(), time.monotonic(), list[int]()
    while time.monotonic() - began < seconds and not count.failed:
        seed = random.SystemRandom().randrange(2**32)
        chosen = ["-q", "-x", f"--hypothesis-seed={seed}", *flags]
        code = pytest.main([*chosen, *FILES], plugins=[count])
        if code not in GOES_ON:
            return int(code)
        code = apart(chosen, count)
        if code not in GOES_ON:
            return code
        gc.collect()
        resident.append(resident_bytes())
    grown = resident[-1] - resident[WARM_UP_ROUNDS - 1] if len(resident) > WARM_UP_ROUNDS else 0
    is_ok = not count.failed and grown < GROWTH_BYTES_MAX
    said = f"{len(resident)} rounds, {count.passed} tests passed, memory grew by {grown / 2**20:.1f} MiB"
    wrong = f"; FAILED with seed {seed}: {', '.join(count.failed)}" if count.failed else ""
    print(f"fuzz {'ok' if is_ok else 'NOT OK'}: {said}, {time.monotonic() - began:.0f} s{wrong}")  # noqa: T201
    return 0 if is_ok else 1


def apart(chosen: list[str], count: Count) -> int:
    """The round of APART; gives pytest's exit status."""
    command = [sys.executable, "-m", "pytest", *chosen, *APART]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=ROUND_S)
    print(ended.stdout)  # noqa: T201
    passed = re.search(r"(\d+) passed", ended.stdout)
    count.passed += int(passed[1]) if passed else 0
    count.failed += re.findall(r"^FAILED (\S+)", ended.stdout, re.MULTILINE)
    return ended.returncode


def resident_bytes() -> int:
    """What of this process is in memory; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
