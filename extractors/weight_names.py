"""Names of weights, apart from PyTorch: what only states settings does without a library of half a GB."""

DEFAULT_WEIGHTS = {"resnet152": "IMAGENET1K_V1", "efficientnet-lite0": "IMAGENET1K", "davenet": "random:0"}
"""Network -> the weights it takes unless told otherwise."""
