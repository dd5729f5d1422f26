"""The `mcn` command and everything that runs on one machine: records, data sets, training, evaluation."""
