"""Makes this folder anew: `cd EMPTY_FOLDER && PYTHONPATH=CHECKOUT OMP_NUM_THREADS=1 python make.py`, with CHECKOUT at
commit 3134a07, whose modules are imported below; later versions have others."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import torch
import yaml

from models.davenet import ResDavenet

FEATURES, MANIFEST = Path("features"), "features/manifests/study.json"
SIZES = {"batch_videos": 2, "clips_per_video": 4, "width": 8, "reconstruction_hidden": 8, "min_clip_seconds": 0.0}
SIZES |= {"clusters": 4, "queue_rows": 16, "refit_every": 2, "learning_rate": 0.01, "epochs": 4, "workers": 0}
TRAIN = ["train", "--manifest", MANIFEST, "--device", "cpu"]
TRAIN += [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
SILENT = [*TRAIN, "--scheme", "video-text"]
EXTRACT = ["extract", "--media", "media", "--captions", "caption.json", "--out", "dataset", "--workers", "1"]
EXTRACT += ["--streams", "efficientnet-lite0", "--davenet-weights", "davenet.pt", "--precision", "fp32"]


def davenet_state() -> dict[str, torch.Tensor]:
    """DaveNet's weights by integer arithmetic alone: the same on every machine, unlike those of `random:SEED`."""
    state = {}
    for name, tensor in ResDavenet().state_dict().items():
        if tensor.ndim > 1:
            hashed = (np.arange(tensor.numel(), dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(20)
            values = (hashed.astype(np.float32) - 2047.5) / 2048 / tensor[0].numel() ** 0.5
            state[name] = torch.from_numpy(values.reshape(tensor.shape))
        elif tensor.ndim == 1:
            state[name] = torch.full_like(tensor, float(name.endswith(("running_var", "weight"))))
    return state


def tensors_digest(state: dict[str, torch.Tensor]) -> str:
    """sha256 of names and bytes."""
    parts = [part for name in sorted(state) for part in (name.encode(), state[name].numpy().tobytes())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def features_by_video(dataset: Path) -> dict[str, dict[str, str]]:
    """Video -> dataset -> sha256 of the video's own bytes in it, by the closed shards' own digests."""
    found = {}
    for path in (dataset / "shards").glob("*.h5"):
        with h5py.File(path) as file:
            digests = {name: values[:] for name, values in file["digests"].items()}
            for n, video_id in enumerate(file["videos/id"][:]):
                found[video_id.decode()] = {name: bytes(rows[n]).hex() for name, rows in digests.items()}
    return found


def machine() -> dict[str, str]:
    """What the last bits of training and of features depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        known = dict(line.split(":", 1) for line in file if ":" in line)
    names = ("model name", "cpu family", "model\t\t", "stepping\t")
    processor = " ".join(
        known.get(next((key for key in known if key.startswith(name)), ""), "").strip() for name in names
    )
    return {"processor": processor, "arithmetic": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def mcn(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_csv(path: str, header: str, lines: list[tuple[Any, ...]]) -> None:
    Path(path).write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n")


def make_features() -> None:
    """Ten videos whose rows, sounds and words belong together, one without sound and captions; manifest `study`."""
    from gensim.models import KeyedVectors
    from pipeline.files import write_json
    from pipeline.plans import hash_order, read_plan, write_plans
    from pipeline.receipts import make_receipt
    from pipeline.records import Caption, VideoFeatures, Words
    from pipeline.shards import Origin, write_part, write_shard

    from extractors.text import save_vectors, vectors_digest

    random = np.random.default_rng(0)
    actions, table = 8, ("chop", "fry", "stir", "peel", "pour", "salt", "bake", "roll", "the", "onion")
    looks, sounds = random.exponential(1, (actions, 24)) ** 2, 0.05 * random.normal(size=(actions, 1024))
    orders = {f"train{n:06d}": random.permutation(actions)[:4] for n in range(6)}
    orders |= {f"heldout{n:04d}": order for n, order in enumerate(np.split(random.permutation(actions), 2) * 2)}
    by_id = {}
    for video_id, order in orders.items():
        silent = video_id == "train000005"
        lines = () if silent else tuple(Caption(t, t + 1, f"{table[a]} the onion") for t, a in enumerate(order))
        words = np.array([i for a in order for i in (a, 8, 9)][: 3 * len(lines)], np.int32)
        by_id[video_id] = VideoFeatures(
            video_id=video_id,
            duration=4.0,
            feature_fps=1,
            video={"resnet152": (looks[order] + random.uniform(0, 0.2, (4, 24))).astype(np.float16)},
            video_mask=np.ones(4, bool),
            audio=(sounds[order] * (not silent)).astype(np.float16),
            audio_mask=np.full(4, not silent),
            logmel=-random.uniform(0, 80, (0 if silent else 7, 40)).astype(np.float16),
            logmel_start=0.0 if silent else 0.125,
            captions=lines,
            words=Words(table, words, np.arange(0, len(words) + 1, 3)),
            decoder="decord",
        )
    stream = {"network": "resnet152", "weights": "0" * 64, "view": "full", "precision": "fp32", "width": 24}
    audio = {"sample_rate": 16000, "rate": "rows", "store": "both", "weights": "1" * 64, "precision": "fp32"}
    captions = {"source": "caption.json", "rule": "published"}
    identity = {"schema": 1, "feature_fps": 1, "frame_size": "short-256", "streams": {"resnet152": stream}}
    identity |= {"audio": audio, "captions": captions}
    vectors = KeyedVectors(16)
    vectors.add_vectors(list(table), random.normal(size=(len(table), 16)).astype(np.float32))
    FEATURES.mkdir()
    save_vectors(vectors, FEATURES / "words.kv")
    described = {"identity": identity, "words": vectors_digest(vectors), "settings": {}, "announcements": []}
    write_json(FEATURES / "dataset.json", described)
    order = sorted(by_id, key=hash_order)
    for name in write_plans(FEATURES / "plans", [order[:5], order[5:]]):
        plan = read_plan(FEATURES / "plans", name)
        parts = [Path(f"parts/{video_id}.h5") for video_id in plan.video_ids]
        for part in parts:
            write_part(part, by_id[part.stem], Origin(name, identity, {}))
        write_shard(FEATURES / "shards" / f"{name}.h5", parts, Origin(name, identity, {}, plan.digest))
        make_receipt(FEATURES, name, {})
    shutil.rmtree("parts")

    write_csv("split.csv", "video_id,split", [(i, i.rstrip("0123456789")) for i in by_id])
    write_csv("ids.csv", "video_id", [*((i,) for i in by_id), ("notdownload",)])
    clips = [(i, c.start, c.end, c.text) for i, v in by_id.items() for c in v.captions]
    write_csv("clips.csv", "video_id,start,end,text", clips)
    steps = [(i, f"task{int(i[-1]) % 2}", int(s), s, e, text) for i, s, e, text in clips]
    write_csv("steps.csv", "video_id,task_id,step,start,end,text", steps)
    mcn("freeze", "features", "study", "--ids", "ids.csv", "--split", "split.csv")


def train_half(steps: int) -> None:
    """A checkpoint in the middle of an epoch, as a kill leaves it."""
    from pipeline import cli, trainer

    step = trainer.Trainer._step
    left = steps

    def killed(*arguments: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return step(*arguments)

    trainer.Trainer._step = killed
    assert cli.main([*SILENT, "--out", "half", "--save-every", "1e-9"]) == 130


def make_study() -> None:
    content = {
        "out": "experiment",
        "train": {"manifest": MANIFEST, "device": "cpu"} | SIZES,
        "evaluate": {"clips": "clips.csv", "bootstrap": 10},
        "localize": {"annotations": "steps.csv", "bootstrap": 10, "chance_draws": 5},
        "compare": {
            "arms": ["video-text", {"name": "slow", "scheme": "video-text", "learning_rate": 1e-5}],
            "seeds": [1, 2],
            "at_once": 1,
        },
    }
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    mcn("compare", "study.yaml")


def make_clip(video_id: str, pattern: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", f"{pattern}=size=96x64:rate=10"]
    command += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000", "-t", "1.4", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, f"media/{video_id}.mp4"], check=True)


def make_extraction() -> None:
    """Closed shards, a video that failed, one that was forgotten, and a plan killed after the first of two videos."""
    texts = {"start": [0.0, 0.7], "end": [0.6, 1.3], "text": ["Chop the red onion", "stir it's hot"]}
    ids = ["closed00001", "closed00002", "forgotten01", "open0000001", "open0000002", "added000001"]
    Path("caption.json").write_text(json.dumps(dict.fromkeys(ids, texts)))
    torch.save(davenet_state(), "davenet.pt")
    Path("media").mkdir()
    for video_id, pattern in zip(ids, ("testsrc", "smptebars", "rgbtestsrc"), strict=False):
        make_clip(video_id, pattern)
    Path("media/notavideo01.mp4").write_bytes(b"no video" * 100)
    mcn(*EXTRACT)
    mcn("forget", "forgotten01", "--dataset", "dataset", "--media", "media")
    for video_id in ids[3:5]:
        make_clip(video_id, "testsrc2")
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", *EXTRACT], start_new_session=True)
    while not list(Path("dataset").glob("parts/*/*.h5")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Another machine would have to watch it for 90 s to see that its holder is dead.
    for lease in Path("dataset/leases").iterdir():
        lease.unlink()
    # What the same version makes of the open plan.
    shutil.copytree("dataset", "whole")
    mcn(*EXTRACT[:5], "--out", "whole", *EXTRACT[7:])


def write_expected() -> None:
    """What is too large to keep is trained and extracted all the same, and its results are written down."""
    mcn(*TRAIN, "--out", "sound")
    sound = torch.load("sound/checkpoint.pt", weights_only=True)
    expected = {
        "machine": machine(),
        "sound": {"digest": tensors_digest(sound["model"]), "history": sound["history"]},
        "extraction": features_by_video(Path("whole")),
    }
    Path("expected.json").write_text(json.dumps(expected, indent=1))


def pack() -> None:
    """Three archives: HDF5 leaves much room, and what is too large or told by `expected.json` is left out."""
    archives = {
        "models": ["features", "model", "half", "embeddings.*", "index", "search-*.json", "*.csv"],
        "study": ["study.yaml", "experiment"],
        "extraction": ["caption.json", "media/open*", "dataset"],
    }
    left_out = ("weights", "tensorboard", "report.html", "report-figures")
    for name, patterns in archives.items():
        with tarfile.open(f"{name}.tar.xz", "w:xz") as archive:
            for path in sorted(path for pattern in patterns for path in Path().glob(pattern)):
                archive.add(path, filter=lambda member: None if Path(member.name).name in left_out else member)


def main() -> None:
    make_features()
    mcn(*SILENT, "--out", "model")
    train_half(5)
    mcn("evaluate", "retrieval", "--checkpoint", "model", "--clips", "clips.csv", "--out", "model")
    mcn("evaluate", "localization", "--checkpoint", "model", "--annotations", "steps.csv", "--out", "model")
    mcn("embed", "--checkpoint", "model", "--out", "embeddings.h5")
    mcn("index", "embeddings.h5", "--out", "index")
    search = ["search", "index"]
    for name, query in (("text", ["fry the onion"]), ("like", ["--like", "train000000@2"])):
        Path(f"search-{name}.json").write_text(mcn(*search, *query, "--top", "5", "--json"))
    make_study()
    make_extraction()
    write_expected()
    pack()


if __name__ == "__main__":
    main()
