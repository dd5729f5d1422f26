"""The networks and losses: tensors in, tensors out, no disk, no training loop.

A model, its embeddings (space -> modality -> (B, D)) and their losses:

    model = MCN(ModelSettings(scheme=builtin_scheme("shared")))
    embeddings = model(ClipInputs(...))
    losses = mcn_losses(scheme, embeddings, clusters, model.reconstruction_errors(embeddings), LossSettings())

Import the module you need: settings and pairing schemes load no PyTorch.
"""
