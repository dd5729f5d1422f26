"""Ranks of 100,000 queries among 100,000 candidates, beside the bare product that makes their scores, in one run.

python -m benchmarks.retrieval --count 100000 --width 1024

The bare product is the same blocks of the same matrices, with nothing done to the scores. Queries are noisy candidates,
so that ranks are neither all first nor all chance.
"""

import argparse
import resource
import time

import torch

from pipeline.metrics.ranking import CANDIDATE_BLOCK, QUERY_BLOCK, Side, ranked

AIM, MEMORY_GIB = 2.0, 4.0


def bare_product(queries: torch.Tensor, candidates: torch.Tensor) -> None:
    """Make every block of scores, and leave it."""
    room = torch.empty(QUERY_BLOCK * CANDIDATE_BLOCK)
    for asked in queries.split(QUERY_BLOCK):
        for part in candidates.split(CANDIDATE_BLOCK):
            torch.mm(asked, part.T, out=room[: len(asked) * len(part)].view(len(asked), len(part)))


def main() -> None:
    """Print the two times, their ratio and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(arguments.count, arguments.width, generator=generator)
    queries = candidates * 0.12
    for part in queries.split(QUERY_BLOCK):
        part += torch.randn(part.shape, generator=generator)
    there = torch.ones(arguments.count, dtype=torch.bool)
    bare_product(queries[:QUERY_BLOCK], candidates)
    started = time.perf_counter()
    bare_product(queries, candidates)
    bare = time.perf_counter() - started
    started = time.perf_counter()
    found = ranked(Side(queries, there), Side(candidates, there))
    ranks = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = 2 * arguments.count**2 * arguments.width / bare / 1e9
    print(f"{arguments.count:,} x {arguments.count:,}, width {arguments.width}, {torch.get_num_threads()} threads")
    print(f"bare blocked product  {bare:8.1f} s  ({rate:,.0f} GFLOP/s)")
    print(f"ranks                 {ranks:8.1f} s  {ranks / bare:.2f} times the product (aim: at most {AIM:.0f})")
    print(f"peak memory           {peak:8.2f} GiB (aim: at most {MEMORY_GIB:.0f})")
    print(f"R@1 {100 * found.hits(1).mean():.1f} %, R@10 {100 * found.hits(10).mean():.1f} %")


if __name__ == "__main__":
    main()
