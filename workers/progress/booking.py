"""Who listens to a search besides the terminal: the dashboard's board, and the books."""

from __future__ import annotations

from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, Phase, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.store import Store
from autoslim.training.shared_results import costs
from workers.progress.callbacks import Listener
from workers.progress.ray_dashboard import DashboardTasks


class Dashboard(Listener):
    """Begins and ends a trial's notice on the board."""

    def __init__(self, dashboard_tasks: DashboardTasks) -> None:
        self._notices = dashboard_tasks

    def trial_begins(self, result: TrialResult, target: str) -> None:
        self._notices.begin(result.number, result.recipe.method, target, result.recipe.to_json())

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        pass

    def trial_ends(self, result: TrialResult, target: str) -> None:
        if result.duplicate_of is None and result.state is not TrialState.INFEASIBLE:
            self._notices.end(result.number, result.error)

    def search_ends(self, reason: str, finals: int) -> None:
        pass


class CostRecorder(Listener):
    """Books the work that trials share, the dense model's adapting first, to the job as soon as it is done.

    It lies in storage, so none is lost with a driver.
    """

    def __init__(self, store: Store, job: SearchJob, output: RunFolder) -> None:
        self._store, self._job, self._output = store, job, output

    def trial_begins(self, result: TrialResult, target: str) -> None:
        pass

    def trial_reports(self, result: TrialResult, report: EpochReport) -> None:
        if report.phase == Phase.PRUNE:
            self.book()

    def trial_ends(self, result: TrialResult, target: str) -> None:
        self.book()

    def search_ends(self, reason: str, finals: int) -> None:
        pass

    def book(self) -> None:
        self._store.book_shared(self._job.id, [*costs(self._output.cache), *costs(self._output.shared)])
