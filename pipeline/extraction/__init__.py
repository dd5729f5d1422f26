"""Media to shards: settings, preparation, planning, driver, worker, features, cleanup, speed."""
