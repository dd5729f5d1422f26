"""Apache Beam jobs: thin layers over `pipeline` and `extractors`."""

import logging

# As soon as it is imported Beam complains that a library for Google's BigQuery isn't there, by the root's logger, which
# without a handler would give itself one that has its own ways.
_silent, _level_before = logging.NullHandler(), logging.root.manager.disable
logging.getLogger().addHandler(_silent)
logging.disable(logging.WARNING)
import apache_beam as _  # noqa: E402, F401

logging.disable(_level_before)
logging.getLogger().removeHandler(_silent)
