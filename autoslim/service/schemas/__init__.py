"""The bodies of the API's responses, a module per resource, with the functions that make them from what is stored."""

from autoslim.service.schemas.artifact import ArtifactList, ArtifactResponse
from autoslim.service.schemas.event import EventPage, event_response
from autoslim.service.schemas.health import Capabilities, DependencyState, Health, MethodInfo, Readiness
from autoslim.service.schemas.job import JobPage, JobResponse, job_response
from autoslim.service.schemas.plan import PlanResponse
from autoslim.service.schemas.trial import FrontResponse, TrialPage, front_response, trial_response

__all__ = [
    "ArtifactList",
    "ArtifactResponse",
    "Capabilities",
    "DependencyState",
    "EventPage",
    "FrontResponse",
    "Health",
    "JobPage",
    "JobResponse",
    "MethodInfo",
    "PlanResponse",
    "Readiness",
    "TrialPage",
    "event_response",
    "front_response",
    "job_response",
    "trial_response",
]
