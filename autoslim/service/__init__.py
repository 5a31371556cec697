"""The HTTP service: takes job specs into the queue, and shows what becomes of them. `serve` and `app` begin it.

Nothing is imported here: the planner needs no web framework.
"""
