"""Search in clips: embeddings in a file, an index of them, and the clips nearest to a text or to another clip."""
