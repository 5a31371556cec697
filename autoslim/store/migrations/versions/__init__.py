"""The steps, in the order of their numbers. One that was published is never changed."""
