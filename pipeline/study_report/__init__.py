"""The report of a study: one HTML file that needs no network, and its figures and tables as files for a paper."""
