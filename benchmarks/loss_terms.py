"""What each pairing scheme and each loss term does on the made sample: text -> video on held-out clips, two seeds.

python -m benchmarks.loss_terms --run runs/demo --out runs/loss-terms

`--run` is the folder of an `mcn run configs/sample.yaml`: its data set, manifest and clips are used. Trains every
built-in scheme that contrasts video with text, then scheme `shared` with each kind of term switched off. Models and
scores are kept under `--out`; rerun the same command to resume.
"""

import argparse
from pathlib import Path
from typing import Any

from models.pairing import BUILTIN_SCHEMES, Scheme, builtin_scheme
from pipeline.core.config import from_mapping
from pipeline.evaluation.retrieval import run as evaluate
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run as train

WANTED_TIMES_CHANCE = 5.0
OFF: dict[str, dict[str, Any]] = {
    "without L_MMS": {"contrast_weight": 0.0},
    "without L_Cluster": {"cluster_weight": 0.0},
    "without L_Reconstruct": {"reconstruction_weight": 0.0},
    "L_MMS alone": {"cluster_weight": 0.0, "reconstruction_weight": 0.0},
}


def names_of(scheme: Scheme) -> set[str]:
    """The modalities of a scheme."""
    return {modality for space in scheme.spaces for modality in space.modalities}


def score(given: argparse.Namespace, name: str, seed: int, values: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one model; its retrieval metrics."""
    out = given.out / f"{name.replace(' ', '-')}-seed{seed}"
    manifest = given.run / "dataset" / "manifests" / "run.json"
    common = {"preset": "sample", "manifest": manifest, "out": out, "seed": seed}
    train(from_mapping(TrainSettings, common | values, name))
    asked = RetrievalSettings(checkpoint=out, clips=given.run / "sample" / "steps.csv", out=out)
    return dict(evaluate(asked).detail["metrics"])


def main() -> None:
    """Train, evaluate, print the table; ends with status 1 where a scheme stays below 5 times chance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    whole = [name for name in BUILTIN_SCHEMES if len(names_of(builtin_scheme(name))) == 3]
    schemes = [name for name in whole if builtin_scheme(name).contrasting("text", "video")]
    arms: dict[str, dict[str, Any]] = {name: {"scheme": name} for name in schemes} | OFF
    lines, failed = [], []
    for name, values in arms.items():
        for seed in given.seeds:
            metrics = score(given, name, seed, values)
            found = {k: metrics["recall"][k] for k in ("R@1", "R@5", "R@10")}
            times = found["R@5"]["value"] / metrics["chance"]["R@5"]
            if name in schemes and times < WANTED_TIMES_CHANCE:
                failed.append(f"{name}, seed {seed}")
            recalls = "".join(
                f"{100 * r['value']:7.1f} [{100 * r['low']:5.1f},{100 * r['high']:6.1f}]" for r in found.values()
            )
            lines.append(f"{name:<24}{seed:>5}{recalls}{metrics['median_rank']['value']:>8.1f}{times:>8.1f}")
    head = f"{'':<24}{'seed':>5}{'R@1':>7}{'':16}{'R@5':>7}{'':16}{'R@10':>7}{'':16}{'median':>8}{'R@5 / chance':>14}"
    print("\n".join(["", head, *lines]))
    if failed:
        raise SystemExit(f"below {WANTED_TIMES_CHANCE:g} times chance: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
