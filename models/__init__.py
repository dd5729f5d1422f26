"""The networks and losses: tensors in, tensors out, no disk, no training loop.

A model, its embeddings (space -> modality -> (B, D)) and their losses:

    model = MCN(ModelSettings(scheme=builtin_scheme("shared")))
    embeddings = model(ClipInputs(...))
    losses = mcn_losses(scheme, embeddings, clusters, model.reconstruction_errors(embeddings), LossSettings())
"""

from models.batch_step import Alone, BatchStep, Exchange, StepLosses
from models.clips import ClipInputs, Embeddings, concatenate
from models.davenet import ResDavenet, running_statistics_held
from models.kmeans import (
    ClusterQueue,
    Clusters,
    ClusterSettings,
    TooFewClipsError,
    cosine_kmeans,
    first_half_of_each_video,
)
from models.losses import (
    Losses,
    LossSettings,
    cluster_terms,
    contrastive_terms,
    mcn_losses,
    reconstruction_terms,
    term_weights,
    total_loss,
)
from models.mcn import MCN, ModelSettings
from models.pairing import (
    BUILTIN_SCHEMES,
    Scheme,
    SchemeError,
    builtin_scheme,
    scheme_from_dict,
    scheme_to_dict,
)
from models.published import (
    StateDictError,
    export_published,
    load_published,
    load_published_davenet,
    published_names,
)

__all__ = [
    "BUILTIN_SCHEMES",
    "MCN",
    "Alone",
    "BatchStep",
    "ClipInputs",
    "ClusterQueue",
    "ClusterSettings",
    "Clusters",
    "Embeddings",
    "Exchange",
    "LossSettings",
    "Losses",
    "ModelSettings",
    "ResDavenet",
    "Scheme",
    "SchemeError",
    "StateDictError",
    "StepLosses",
    "TooFewClipsError",
    "builtin_scheme",
    "cluster_terms",
    "concatenate",
    "contrastive_terms",
    "cosine_kmeans",
    "export_published",
    "first_half_of_each_video",
    "load_published",
    "load_published_davenet",
    "mcn_losses",
    "published_names",
    "reconstruction_terms",
    "running_statistics_held",
    "scheme_from_dict",
    "scheme_to_dict",
    "term_weights",
    "total_loss",
]
