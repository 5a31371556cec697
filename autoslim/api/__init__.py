"""Python in ten lines: `run_search` and `slim`, with the settings of the command line as keyword arguments."""
