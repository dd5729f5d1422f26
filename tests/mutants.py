"""`make mutants`: puts one small fault at a time into a copy of the code and says which the tests don't notice.

`tests/mutants.yaml` lists them, each with `file`, `old` (text that stands once in it), `new`, and `tests`: what must
fail (files or node ids). A fault that changes no behaviour has `equal` instead of `tests`, the reason: it is counted as
a survivor and not run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "mutants.yaml"
ENOUGH = 0.95
"""Share of the faults that must be noticed."""
LONGEST_S = 300
"""A fault by which the tests hang for so long is noticed."""
FAILED, PASSED = 1, 0


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


def run_tests(copy: Path, tests: Sequence[str], *options: str) -> int:
    """Pytest's exit status in a copy of the code; `FAILED` when it hangs."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not endurance", "-p", "no:cacheprovider", *options, *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    with open(copy.parent / f"{copy.name}.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return process.wait(LONGEST_S if options else None)
        except subprocess.TimeoutExpired:
            return FAILED
        finally:
            with_children = getattr(os, "killpg", None)
            if with_children and process.poll() is None:
                with_children(process.pid, 9)
            process.wait()


def judge(mutant: Mutant, copies: "SimpleQueue[Path]") -> str:
    """`noticed`, `survived`, or why it can't be said."""
    copy = copies.get()
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        status = run_tests(copy, mutant.tests, "-x")
    finally:
        path.write_text(whole, encoding="utf-8")
        copies.put(copy)
    # 2: a module that no longer loads.
    return {FAILED: "noticed", 2: "noticed", PASSED: "survived"}.get(status, f"pytest ended with status {status}")


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
        copies: SimpleQueue[Path] = SimpleQueue()
        for job in range(arguments.jobs):
            copy = Path(folder) / str(job)
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", "*cache*"))
            copies.put(copy)
        if run_tests(copy, sorted({test for mutant in tried for test in mutant.tests}), "-n", str(arguments.jobs)):
            print((Path(folder) / f"{copy.name}.log").read_text(errors="replace")[-3000:])
            print("the tests fail without a fault")
            return 2
        verdicts = []
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, verdict in zip(tried, pool.map(lambda one: judge(one, copies), tried), strict=True):
                verdicts.append(verdict)
                if verdict != "noticed":
                    print(f"{verdict}: {mutant}", flush=True)
                elif sys.stderr.isatty():
                    print(f"\r{len(verdicts)}/{len(tried)}", end="", file=sys.stderr, flush=True)
    for mutant in mutants:
        if mutant.equal:
            print(f"survives, equal: {mutant}: {mutant.equal}")
    noticed = verdicts.count("noticed")
    print(f"{noticed} of {len(mutants)} faults noticed, {len(mutants) - len(tried)} equal, {len(tried) - noticed} not")
    return int(noticed < len(tried) or noticed < ENOUGH * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
