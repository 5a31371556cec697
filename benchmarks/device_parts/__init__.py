"""The parts of `device_check.py`, one in a file. Each runs in a process of its own and yields its `Finding`s."""
