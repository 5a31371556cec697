"""What runs beside the library: searches on a Ray cluster, and the service's jobs. Only this package imports Ray.

search/     one search: driver, coordinator, Ray Tune, finalizing
estimate/   what a search is going to take (`autoslim plan`)
service/    submitted jobs: the supervisor and the processes that drive them
progress/   what follows a search while it runs: console, metrics, Ray dashboard, cost
"""
