"""`mcn status`: where a data set, a media folder or a run stands."""
