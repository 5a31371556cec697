"""`autoslim report`."""

from __future__ import annotations

import json
import sys


def show_report(folder: str, *, as_json: bool) -> int:
    """Writes the report of the search in `folder` anew; the exit code, 1 where a section could not be drawn.

    Raises:
        OutputError: when the folder holds no search, or the file cannot be written.
    """
    from autoslim.core.run_folder import RunFolder
    from autoslim.errors import OutputError
    from autoslim.storage import StorageUri, upload_file
    from autoslim.storage.output_place import OutputPlace
    from autoslim.store.of_folder import store_of
    from workers.search.kept_output import viewed_folder
    from workers.search.report import write_search_report

    place = OutputPlace.parse(folder)
    output = RunFolder(place.folder if place.uri is None else viewed_folder(place.uri))
    job = output.read_job()
    with store_of(output.root, job) as store:
        try:
            failed = write_search_report(output, store, job.id)
        except OSError as error:
            raise OutputError(f"{output.report} cannot be written: {error.strerror}") from error
    written = str(output.report)
    if place.uri is not None:
        written = f"{place.uri}/{output.report.name}"
        upload_file(output.report, StorageUri.parse(written))
    if as_json:
        sys.stdout.write(json.dumps({"file": written, "failed": failed}) + "\n")
    else:
        sys.stdout.write(f"{written}\n")
    for title, reason in failed.items():
        sys.stderr.write(f"autoslim: the section {title!r} could not be drawn: {reason}\n")
    return 1 if failed else 0
