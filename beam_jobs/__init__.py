"""Apache Beam jobs: thin layers over `pipeline` and `extractors`."""
