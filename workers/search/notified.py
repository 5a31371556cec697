"""`run_notified`: a search whose webhook is told of its best trials and its end."""

from __future__ import annotations

from autoslim.core.job import SearchJob
from autoslim.progress.display import Display
from autoslim.webhook.secret import read_secret
from workers.progress.callbacks import CallbackList, SearchCallback
from workers.progress.webhook import WebhookEvents
from workers.search.driver import run_search
from workers.search.summary import Summary


def run_notified(
    job: SearchJob, *, resume: bool = False, callback: SearchCallback | None = None, display: Display | None = None
) -> Summary:
    """`run_search` for a user of this machine; the service notifies by itself.

    Raises:
        RequestError: before anything is written, where the job has a webhook and there is no secret to sign with.
        AutoslimError: as `run_search`.
    """
    callback = callback or SearchCallback()
    if job.webhook is None:
        return run_search(job, resume=resume, callback=callback, display=display)
    webhook = WebhookEvents(job, read_secret())
    try:
        summary = run_search(job, resume=resume, callback=CallbackList([webhook, callback]), display=display)
    except BaseException as error:
        webhook.end_with(error)
        raise
    if summary.models:
        webhook.succeed([model.to_dict() for model in summary.models], summary.missing, summary.states)
    else:
        webhook.fail(f"no trial was completed within {', '.join(summary.missing)}")
    return summary
