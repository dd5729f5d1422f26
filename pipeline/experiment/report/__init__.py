"""A finished comparison as one HTML page, with its figures and tables as files."""
