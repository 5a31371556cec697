"""A search on a Ray cluster, from a job to models within their budgets.

driver.py                            the steps of one search, in order
prepare.py, resources.py, cluster.py what is checked and built before, and the cluster that it runs on
earlier_searches.py, warm_start.py   what earlier searches offer (`--reuse`)
base_model.py, latency.py            the dense model and the latency table, as tasks on the cluster
coordinator.py, trial_index.py       which trial runs next, and what became of it; without Ray
tune_run.py, tune_searcher.py, tune_trainable.py    the coordinator and the trials under Ray Tune
finalize.py, summary.py, report.py   the selected models, how the search ended, and its report
signals.py                           Ctrl-C and SIGTERM
"""
