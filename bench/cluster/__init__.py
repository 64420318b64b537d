"""What a change costs a cluster: `python -m bench.cluster.run --help`."""
