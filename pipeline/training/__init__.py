"""A manifest to a checkpoint: settings, batches, staging, processes, trainer, export, speed."""
