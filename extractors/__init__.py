"""Media in, features out: the decoder and one extractor a modality.

Import the module you need: the decoder's process must not load the networks.
"""
