"""What every room builds on: files, ledger, lease, HDF5, settings, errors, reporting, tables, figures."""
