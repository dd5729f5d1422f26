"""A checkpoint to embeddings, an index and answers."""
