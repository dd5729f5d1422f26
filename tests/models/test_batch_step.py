"""Chunks and processes change nothing: gradients, losses and running statistics are those of the whole batch."""

import copy
import threading
from dataclasses import replace

import pytest
import torch

from models import davenet, mcn, settings
from models.batch_step import BatchStep, StepLosses
from models.clips import ClipInputs, Embeddings, concatenate
from models.kmeans import ClusterQueue, Clusters
from models.losses import mcn_losses
from models.mcn import MCN
from models.pairing import BUILTIN_SCHEMES, builtin_scheme
from models.settings import ClusterSettings, LossSettings, ModelSettings

CLIPS, WIDTH = 22, 10
SETTINGS = ModelSettings(width=WIDTH, video_streams=(6, 4), audio_dim=7, word_dim=5, reconstruction_hidden=8)
CLUSTERS = ClusterSettings(clusters=4, queue_rows=16, refit_every=2)


STAGE_WIDTHS = (8, 12, 16, 20)
"""Of a narrow DaveNet: at full width the processes' copies of it, in double precision, take 7 GB."""


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(davenet, "_STAGE_WIDTHS", STAGE_WIDTHS)
    for module in (mcn, settings):
        monkeypatch.setattr(module, "AUDIO_WIDTH", STAGE_WIDTHS[-1])


def frozen_rows(clips: int = CLIPS, dtype: torch.dtype = torch.float64) -> ClipInputs:
    """Random clips; some lack video, some audio, some text."""
    draw = torch.Generator().manual_seed(3)
    has = torch.rand(3, clips, generator=draw) > 0.2
    return ClipInputs(
        video=torch.rand(clips, 3, 10, generator=draw, dtype=dtype),
        video_rows=has[0].unsqueeze(1).expand(clips, 3),
        audio=torch.randn(clips, 7, generator=draw, dtype=dtype),
        has_audio=has[1],
        words=torch.randn(clips, 4, 5, generator=draw, dtype=dtype),
        known_words=has[2].unsqueeze(1) & (torch.rand(clips, 4, generator=draw) > 0.3),
    )


def logmel(clips: int, dtype: torch.dtype = torch.float64) -> ClipInputs:
    """Random clips with log-mel in place of rows."""
    draw = torch.Generator().manual_seed(4)
    return replace(
        frozen_rows(clips, dtype),
        audio=-80 * torch.rand(clips, 40, 48, generator=draw, dtype=dtype),
        audio_frames=torch.randint(16, 49, (clips,), generator=draw),
    )


def videos_of(clips: int) -> torch.Tensor:
    return torch.arange(clips) // 3


def make(model: MCN, **options: object) -> BatchStep:
    queues = {s.name: ClusterQueue(model.settings.width_of(s), CLUSTERS) for s in model.settings.scheme.spaces}
    for queue in queues.values():
        queue.to(next(model.parameters()).dtype)
    settings = options.pop("settings", LossSettings())
    return BatchStep(model, queues, settings, **options)  # type: ignore[arg-type]


def backward(step: BatchStep, clips: ClipInputs, videos: torch.Tensor | None = None) -> StepLosses:
    videos = videos_of(len(clips)) if videos is None else videos
    return step.backward(clips, videos, torch.Generator().manual_seed(0))


def gradients(model: MCN) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], relative: float) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= relative * gradient.norm(), name


def plain(model: MCN, clips: ClipInputs, settings: LossSettings, clusters: dict[str, Clusters]) -> Embeddings:
    """The step without any of its arts: one graph from the clips to the sum of all terms."""
    model.zero_grad()
    embeddings: Embeddings = model(clips)
    errors = model.reconstruction_errors(embeddings)
    losses = mcn_losses(model.settings.scheme, embeddings, clusters, errors, settings, videos_of(len(clips)))
    losses.total.backward()
    return embeddings


class Recorder(ClusterQueue):
    """A queue that keeps the clusters it gave."""

    last: Clusters

    def step(self, *arguments: object, **named: object) -> Clusters:
        self.last = super().step(*arguments, **named)  # type: ignore[arg-type]
        return self.last


@pytest.mark.parametrize("chunk", [0, 5, 11, 21], ids=lambda chunk: f"chunks of {chunk or 'all'}")
@pytest.mark.parametrize("detach", [True, False], ids=["targets fixed", "targets move"])
@pytest.mark.parametrize("scheme", BUILTIN_SCHEMES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_gradients_in_chunks_are_those_of_the_whole_batch(
    scheme: str, detach: bool, chunk: int, dtype: torch.dtype, relative: float
) -> None:
    torch.manual_seed(0)
    settings = replace(SETTINGS, scheme=builtin_scheme(scheme), detach_targets=detach)
    model = MCN(settings).to(dtype).train()
    clips = frozen_rows(dtype=dtype)
    step = make(model, chunk_clips=chunk)
    recorders = {name: Recorder(WIDTH, CLUSTERS).to(dtype) for name in step.queues}
    step.queues = recorders
    losses = backward(step, clips)
    found = {name: gradient.clone() for name, gradient in gradients(model).items()}
    clusters = {name: recorder.last for name, recorder in recorders.items()}
    embeddings = plain(model, clips, LossSettings(), clusters)
    assert_same_gradients(found, gradients(model), relative)
    errors = model.reconstruction_errors(embeddings)
    wanted = mcn_losses(settings.scheme, embeddings, clusters, errors, LossSettings(), videos_of(CLIPS))
    assert losses.terms.keys() == wanted.terms.keys()
    for name, term in wanted.terms.items():
        torch.testing.assert_close(losses.terms[name], term.detach(), rtol=relative, atol=relative)
    torch.testing.assert_close(losses.total, wanted.total.detach().double(), rtol=relative, atol=relative)


def davenet_model(dtype: torch.dtype = torch.float64, **options: object) -> MCN:
    torch.manual_seed(1)
    settings = replace(SETTINGS, audio_from="logmel", audio_dim=STAGE_WIDTHS[-1], **options)  # type: ignore[arg-type]
    return MCN(settings).to(dtype).train()


def test_with_davenet_a_chunk_is_the_group_of_its_batch_norm() -> None:
    """Three groups of 4 clips: statistics of each group, running ones moved by three, gradients of the sum."""
    model = davenet_model(detach_targets=False)
    reference = copy.deepcopy(model)
    clips = logmel(12)
    step = make(model, chunk_clips=4)
    recorder = Recorder(WIDTH, CLUSTERS).double()
    step.queues = {"shared": recorder}
    backward(step, clips)
    parts = [reference(clips[first : first + 4]) for first in (0, 4, 8)]
    whole = concatenate(parts)
    errors = reference.reconstruction_errors(whole)
    clusters = {"shared": recorder.last}
    mcn_losses(reference.settings.scheme, whole, clusters, errors, LossSettings(), videos_of(12)).total.backward()
    assert_same_gradients(gradients(model), gradients(reference), 1e-10)
    for (name, buffer), (_, wanted) in zip(model.named_buffers(), reference.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, rtol=1e-10, atol=1e-12, msg=name)
    assert int(model.davenet.bn1.num_batches_tracked) == 3  # type: ignore[union-attr]


class Threads:
    """A communicator of threads that stand for processes."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._barrier = threading.Barrier(processes)
        self._sent: list[torch.Tensor] = [torch.zeros(())] * processes

    def of(self, rank: int) -> "OneThread":
        return OneThread(self, rank)

    def swap(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._barrier.wait(600)
        self._sent[rank] = tensor.detach().clone()
        self._barrier.wait(600)
        return list(self._sent)


class OneThread:
    def __init__(self, threads: Threads, rank: int) -> None:
        self.rank, self.processes, self._threads = rank, threads.processes, threads

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._threads.swap(self.rank, tensor))

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._threads.swap(self.rank, tensor)).sum(0)

    def first(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._threads.swap(self.rank, tensor)[0]


def share(model: MCN, clips: ClipInputs, processes: int, chunk: int) -> tuple[list[BatchStep], list[StepLosses]]:
    """Two steps on the same batch, by `processes` copies of the model."""
    threads, size = Threads(processes), len(clips) // processes
    steps = [make(copy.deepcopy(model), chunk_clips=chunk, communicator=threads.of(rank)) for rank in range(processes)]
    losses: list[StepLosses | None] = [None] * processes
    videos = videos_of(len(clips))

    def work(rank: int) -> None:
        mine = slice(rank * size, (rank + 1) * size)
        for _ in range(2):
            losses[rank] = backward(steps[rank], clips[mine], videos[mine])

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(losses)
    return steps, losses  # type: ignore[return-value]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("audio_from", ["davenet", "logmel"])
def test_processes_that_share_a_batch_are_as_one(audio_from: str, processes: int) -> None:
    torch.manual_seed(2)
    model, clips, chunk = MCN(SETTINGS).double().train(), frozen_rows(24), 0
    if audio_from == "logmel":
        model, clips, chunk = davenet_model(), logmel(6), 1 if processes == 3 else 3
        # The first process has no sound at all, and so no gradient for DaveNet.
        clips = replace(clips, has_audio=torch.arange(6) >= 6 // processes)
    (alone,), (wanted,) = share(model, clips, 1, chunk)
    steps, losses = share(model, clips, processes, chunk)
    for step, found in zip(steps, losses, strict=True):
        assert_same_gradients(gradients(step.model), gradients(alone.model), 1e-10)
        assert found.terms.keys() == wanted.terms.keys()
        for name, term in wanted.terms.items():
            torch.testing.assert_close(found.terms[name], term, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found.gradient_norms[name], wanted.gradient_norms[name], rtol=1e-9, atol=1e-12)
        for (name, buffer), (_, other) in zip(step.model.named_buffers(), alone.model.named_buffers(), strict=True):
            torch.testing.assert_close(buffer, other, rtol=1e-9, atol=1e-12, msg=name)
        for name, queue in step.queues.items():
            for one, other in zip(queue.state_dict().values(), alone.queues[name].state_dict().values(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradient_shares_are_those_of_each_term_by_itself() -> None:
    torch.manual_seed(5)
    model, clips = MCN(SETTINGS).double().train(), frozen_rows()
    step = make(model, chunk_clips=7)
    recorder = Recorder(WIDTH, CLUSTERS).double()
    step.queues = {"shared": recorder}
    losses = backward(step, clips)
    embeddings = model(clips)
    leaves = embeddings.map_vectors(lambda v: v.detach().requires_grad_())
    errors = model.reconstruction_errors(leaves)
    terms = mcn_losses(SETTINGS.scheme, leaves, {"shared": recorder.last}, errors, LossSettings(), videos_of(CLIPS))
    norms = {}
    for name, term in terms.terms.items():
        vectors = list(leaves.vectors["shared"].values())
        found = torch.autograd.grad(terms.weights[name] * term, vectors, retain_graph=True, allow_unused=True)
        norms[name] = torch.cat([g.flatten() for g in found if g is not None]).norm()
    whole = sum(float(norm) for norm in norms.values())
    shares = losses.gradient_shares()
    assert shares.keys() == norms.keys() and float(sum(shares.values())) == pytest.approx(1)
    for name, norm in norms.items():
        assert float(shares[name]) == pytest.approx(float(norm) / whole, rel=1e-9)


@pytest.mark.parametrize("off", ["contrast", "cluster", "reconstruction"])
def test_a_kind_of_term_with_weight_0_is_left_out(off: str) -> None:
    torch.manual_seed(6)
    model, clips = MCN(SETTINGS).double().train(), frozen_rows()
    settings = replace(LossSettings(), **{f"{off}_weight": 0.0})
    losses = backward(make(model, settings=settings, chunk_clips=8), clips)
    kinds = {name.split("/")[0] for name in losses.terms}
    assert kinds == {"contrast", "cluster", "reconstruction"} - {off}
    decoders = {name.split(".")[0] for name in gradients(model)}
    assert ("decoders" in decoders) == (off != "reconstruction")


def test_half_precision_stays_near_full_and_its_losses_are_full() -> None:
    torch.manual_seed(7)
    model, clips = MCN(SETTINGS).train(), frozen_rows(dtype=torch.float32)
    full = backward(make(model), clips)
    wanted = {name: gradient.clone() for name, gradient in gradients(model).items()}
    halved = backward(make(model, autocast=lambda: torch.autocast("cpu", torch.bfloat16), chunk_clips=8), clips)
    assert all(term.dtype == torch.float32 for term in halved.terms.values())
    for name, term in full.terms.items():
        if not name.startswith("cluster/"):  # one label that changes is a jump
            torch.testing.assert_close(halved.terms[name], term, rtol=0.02, atol=0.02)
    for name, gradient in gradients(model).items():
        assert torch.cosine_similarity(gradient.flatten(), wanted[name].flatten(), dim=0) > 0.98, name
