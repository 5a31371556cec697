"""`report.html`: all that there is to know of a search on one page, for people who were not there; a file a section."""

from autoslim.report.search_report.builder import render_report
from autoslim.report.search_report.content import read_content

__all__ = ["read_content", "render_report"]
