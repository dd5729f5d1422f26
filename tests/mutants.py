"""`make mutants`: puts one small fault at a time into a copy of the code and says which the tests don't notice.

`tests/mutants.yaml` lists them, each with `file`, `old` (text that stands once in it), `new`, and `tests`: what must
fail (files or node ids). A fault that changes no behaviour has `equal` instead of `tests`, the reason: it is counted as
a survivor and not run.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "mutants.yaml"
ENOUGH = 0.95
"""Share of the faults that must be noticed."""
LONGEST_S = 300.0
"""A fault by which the tests hang for so long is noticed."""
LIBRARIES = "torch torchvision h5py gensim.models apache_beam matplotlib.figure scipy.stats hypothesis"
"""Loaded once, not for every fault."""
OPTIONS = ("-q", "-m", "not endurance", "-p", "no:cacheprovider")
PASSED, FAILED, INTERRUPTED = 0, 1, 2
"""Pytest's exit statuses; `INTERRUPTED`: a module that no longer loads."""


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equal: str = ""

    def __str__(self) -> str:
        line = (ROOT / self.file).read_text(encoding="utf-8").split(self.old)[0].count("\n") + 1
        return f"{self.file}:{line}: {_shown(self.old)} -> {_shown(self.new) or 'nothing'}"


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The list; ValueError for an entry that doesn't fit the code."""
    mutants = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
        mutant = Mutant(**{**entry, "tests": tuple(entry.get("tests", ()))})
        if (count := (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old)) != 1:
            raise ValueError(f"{mutant.file}: {mutant.old!r} stands {count} times in it; expected 1")
        if bool(mutant.tests) == bool(mutant.equal) or mutant.old == mutant.new:
            raise ValueError(f"{mutant}: expected a change, and either tests or equal")
        mutants.append(mutant)
    return mutants


def load_libraries() -> None:
    """Load what nearly every test loads, so that the processes forked for each fault have it."""
    for name in LIBRARIES.split():
        importlib.import_module(name)


def copy_of_this_process(copies: Path) -> Path:
    """A copy of the code for each process that tries faults."""
    copy = copies / str(os.getpid())
    if not copy.exists():
        shutil.copytree(copies / "whole", copy)
    return copy


def fails_without_a_fault(tests: Sequence[str], copies: Path) -> str:
    """What pytest prints when tests fail on the code as it is; "" when they pass. They run as they do with a fault."""
    copy = copy_of_this_process(copies)
    return "" if _status_of_tests(copy, tests, 3600.0) == PASSED else _log(copy).read_text(errors="replace")


def judge(mutant: Mutant, copies: Path) -> str:
    """`noticed`, `survived`, or why it can't be said."""
    copy = copy_of_this_process(copies)
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        status = _status_of_tests(copy, mutant.tests, LONGEST_S)
    finally:
        path.write_text(whole, encoding="utf-8")
    verdicts = {FAILED: "noticed", INTERRUPTED: "noticed", PASSED: "survived"}
    return verdicts.get(status, f"pytest ended with status {status}")


def _log(copy: Path) -> Path:
    return copy.with_suffix(".log")


def _status_of_tests(copy: Path, tests: Sequence[str], longest_s: float) -> int:
    """Pytest's exit status in a process of its own, with all that it starts; `FAILED` when it hangs."""
    child = os.fork()
    if not child:
        status = FAILED
        try:
            status = _run_tests(copy, tests)
        finally:
            os._exit(status)
    ends = time.monotonic() + longest_s
    status = None
    while status is None and time.monotonic() < ends:
        ended, waited = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(waited) if ended else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return FAILED if status is None else status


def _run_tests(copy: Path, tests: Sequence[str]) -> int:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(_log(copy), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(copy)
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path[:] = [str(copy), *(folder for folder in sys.path if not folder.startswith(str(ROOT / "tests")))]
    sys.dont_write_bytecode = True
    return int(pytest.main([*OPTIONS, "-x", *tests]))


def main() -> int:
    """Print a line for each fault that survives, and the share that is noticed; 1 when that is too small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults in files whose path holds TEXT")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default: 2)")
    parser.add_argument("--list", type=Path, default=LIST, metavar="FILE", help="default: tests/mutants.yaml")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in read_mutants(arguments.list) if arguments.only in mutant.file]
    tried = [mutant for mutant in mutants if mutant.tests]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        left_out = (".git", ".venv", "runs", "build", "*.egg-info", "*_cache", "__pycache__")
        shutil.copytree(ROOT, whole, ignore=shutil.ignore_patterns(*left_out))
        noticed = 0
        tests = sorted({test for mutant in tried for test in mutant.tests})
        forking = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(arguments.jobs, forking, load_libraries) as pool:
            # None is empty: without a test's name pytest runs them all.
            parts = [tests[part :: arguments.jobs] for part in range(min(arguments.jobs, len(tests)))]
            if failures := "".join(pool.map(fails_without_a_fault, parts, [Path(folder)] * len(parts))):
                print(f"{failures[-3000:]}\nthe tests fail without a fault")
                return 2
            verdicts = pool.map(judge, tried, [Path(folder)] * len(tried))
            for number, (mutant, verdict) in enumerate(zip(tried, verdicts, strict=True), 1):
                noticed += verdict == "noticed"
                if verdict != "noticed":
                    print(f"{verdict}: {mutant}", flush=True)
                elif sys.stderr.isatty() or number % 50 == 0:
                    end = "" if sys.stderr.isatty() else "\n"
                    print(f"\r{number}/{len(tried)}", end=end, file=sys.stderr, flush=True)
    for mutant in mutants:
        if mutant.equal:
            print(f"survives, equal in behaviour: {mutant}: {mutant.equal}")
    equal, survived = len(mutants) - len(tried), len(tried) - noticed
    print(f"{noticed} of {len(mutants)} faults noticed, {equal} equal in behaviour, {survived} survived")
    return int(survived > 0 or noticed < ENOUGH * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
