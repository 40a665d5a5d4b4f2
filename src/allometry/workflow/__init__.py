"""What ``allometry quickstart`` and the study commands do, as functions: importable, silent, from values to values.

>>> from allometry import workflow
>>> outcome = workflow.quickstart("my_texts/", minutes=3, out="study")
>>> outcome.predicted, outcome.actual

The same, step by step; each step is found again when it was done before, also by the command line:

>>> config = workflow.StudyConfig(data="my_texts/", minutes=3)
>>> with workflow.open_study(config, "study") as session:
...     print(session.cost().notes())
...     recipe = session.run_sweep()
...     rungs = session.train_rungs(recipe)
...     forecast = session.fit()
...     plan = session.plan(forecast)
...     record = session.train(plan)
>>> outcome = workflow.conclude(session.study, plan, record)

And for a study that exists, what the other commands do:

- ``train_ladder``: the ladder of a study, without a plan; ``train_script_ladder``, ``quickstart_script``: of a program;
- ``import_runs``: finished runs of other tools, as a study;
- ``fit_runs``, ``fit_isoflop``, ``load_fit``, ``evidence``: laws of a study or a table of runs;
- ``fit_inputs``, ``load_forecast``, ``predict_inputs``: laws of any inputs, of several targets, or one a cell;
- ``plan``, ``resume_plan``: a plan for a budget, or for what is left of one;
- ``plan_by_inputs``: experts for a budget, or samples for a loss, by a law of any inputs;
- ``export``: a run as transformers or llama.cpp read it; ``finetune``: a pretrained model on your samples; ``distill``:
  the rungs of a study, taught by a larger model;
- ``train_plan``, ``train_run``: the run of a plan, with its outcome, or the run of a TOML file.

Nothing is printed. A ``Listener`` receives what happens, as the events of :mod:`allometry.workflow.listener`;
``RunsUnderWay`` keeps what they say about runs under way: how far they are, what they cost, how long they will take.
"""

from ..config.study import StudyConfig
from ..planning import Outcome, Plan
from ..runs.hooks import Progress
from .budget_left import resume_plan
from .early_warning import EarlyWarning
from .external_runs.import_runs import Imported, import_runs
from .fits.input_fit import PredictedPart, fit_inputs, load_forecast, predict_inputs
from .fits.study_fit import cautions, evidence, fit_isoflop, fit_runs, load_fit, predict_run
from .input_plan import plan_by_inputs, planned_point
from .ladder_cost import LadderCost, RunCost
from .listener import (
    Event,
    Fitted,
    Listener,
    Note,
    Planned,
    Recorded,
    Remark,
    RunsEnded,
    RunsToCome,
    silent,
)
from .main_job import conclude, quickstart, quickstart_study, train_ladder
from .models.distill_study import Distilled, Taught, distill
from .models.export_model import Exported, export
from .models.finetune_model import FineTuned, finetune
from .monitor import Monitor
from .outcome import fit_score, planned_run, predict_scores, record_outcome
from .prepare import read_study
from .programs.script_study import (
    ScriptCost,
    open_script_study,
    quickstart_script,
    read_script_study,
    train_script_ladder,
)
from .runs_under_way import RunState, RunsUnderWay
from .session import StudySession, open_study
from .single_run import train_plan, train_run
from .study_plan import plan, refuse_model_options

__all__ = [
    "Distilled",
    "EarlyWarning",
    "Event",
    "Exported",
    "FineTuned",
    "Fitted",
    "Imported",
    "LadderCost",
    "Listener",
    "Monitor",
    "Note",
    "Outcome",
    "Plan",
    "Planned",
    "PredictedPart",
    "Progress",
    "Recorded",
    "Remark",
    "RunCost",
    "RunState",
    "RunsEnded",
    "RunsToCome",
    "RunsUnderWay",
    "ScriptCost",
    "StudyConfig",
    "StudySession",
    "Taught",
    "cautions",
    "conclude",
    "distill",
    "evidence",
    "export",
    "finetune",
    "fit_inputs",
    "fit_isoflop",
    "fit_runs",
    "fit_score",
    "import_runs",
    "load_fit",
    "load_forecast",
    "open_script_study",
    "open_study",
    "plan",
    "plan_by_inputs",
    "planned_point",
    "planned_run",
    "predict_inputs",
    "predict_run",
    "predict_scores",
    "quickstart",
    "quickstart_script",
    "quickstart_study",
    "read_script_study",
    "read_study",
    "record_outcome",
    "refuse_model_options",
    "resume_plan",
    "silent",
    "train_ladder",
    "train_plan",
    "train_run",
    "train_script_ladder",
]
