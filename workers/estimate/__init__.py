"""What a search is going to take on this machine: `throughput.py` measures it for seconds, `dry_run.py` works the search out."""
