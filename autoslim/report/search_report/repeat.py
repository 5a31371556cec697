"""What is needed to repeat the search: the request, the command, versions, seeds, the digest of the data."""

from __future__ import annotations

from html import escape

import yaml

from autoslim.config import JobSpec
from autoslim.core.job import SearchJob
from autoslim.core.urls import hide_password
from autoslim.data.report import DatasetReport
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import paragraph
from autoslim.report.text_table import Column, draw_text_table

_COMMAND = "autoslim search job.yaml --output runs/again"


def draw_repeat(content: SearchContent) -> str:
    job = content.stored.job
    concurrency = (
        "Trials that run side by side may end in another order, and the sampler then proposes other recipes; with --concurrency 1 the same "
        "seed, data and versions on the same hardware propose the same ones."
    )
    return "\n".join(
        [
            paragraph("The request, as a job file; settings that are not in it have their defaults:"),
            _code("job.yaml", request_of(job)),
            paragraph("The command:"),
            _code("Command", _COMMAND),
            paragraph(concurrency),
            draw_text_table("Seed and data", (Column("What"), Column("Value", "wide")), _facts(content)),
            _versions(content),
        ]
    )


def request_of(job: SearchJob) -> str:
    """YAML that `autoslim search` reads, without passwords."""
    asked = JobSpec.of_job(job).model_dump(mode="json", exclude_defaults=True)
    return hide_password(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True, width=100)).rstrip()


def _facts(content: SearchContent) -> list[list[str]]:
    job = content.stored.job
    rows = [["job", job.id], ["seed", str(job.seed)], ["data", hide_password(job.dataset.source)]]
    if content.dataset is None:
        return [*rows, ["data digest", "not known any more: the prepared images are not in the output folder's cache"]]
    report = content.dataset.report
    rows += [["data digest", f"{content.dataset.digest} (images, labels, classes and splits)"], ["splits", _splits(report)]]
    rows += [[f"seen in the data, {place}", line] for place, line in enumerate((*report.chosen, *report.suspicious), 1)]
    return rows


def _splits(report: DatasetReport) -> str:
    splits = {"train": report.train, "validation": report.validation, "test": report.test}
    return ", ".join(f"{name} {split.images:,} ({split.how_obtained})" for name, split in splits.items())


def _versions(content: SearchContent) -> str:
    environment = content.environment
    if environment is None:
        return paragraph("Versions were not recorded: the search is of an earlier version of autoslim.")
    resources = paragraph(f"Each trial had {environment.resources}.")
    rows = [[name, version] for name, version in environment.versions.items()]
    return draw_text_table("Versions", (Column("Package"), Column("Version")), rows) + resources


def _code(name: str, text: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(name)}"><code>{escape(text)}</code></pre>'
