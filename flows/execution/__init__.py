"""Where the steps run: Dask clusters, their workers, the fan-out over shards."""
