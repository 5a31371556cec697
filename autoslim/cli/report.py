"""`autoslim report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def show_report(folder: Path, *, as_json: bool) -> int:
    """Writes the report of the search in `folder` anew; the exit code, 1 where a section could not be drawn.

    Raises:
        OutputError: when the folder holds no search, or the file cannot be written.
    """
    from autoslim.core.run_folder import RunFolder
    from autoslim.errors import OutputError
    from autoslim.store.of_folder import store_of
    from workers.search.report import write_search_report

    output = RunFolder(folder.absolute())
    job = output.read_job()
    with store_of(output.root, job) as store:
        try:
            failed = write_search_report(output, store, job.id)
        except OSError as error:
            raise OutputError(f"{output.report} cannot be written: {error.strerror}") from error
    if as_json:
        sys.stdout.write(json.dumps({"file": str(output.report), "failed": failed}) + "\n")
    else:
        sys.stdout.write(f"{output.report}\n")
    for title, reason in failed.items():
        sys.stderr.write(f"autoslim: the section {title!r} could not be drawn: {reason}\n")
    return 1 if failed else 0
