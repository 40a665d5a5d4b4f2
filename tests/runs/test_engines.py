"""What every engine keeps: on this machine, on a Ray cluster of two nodes, by submitit, under torchrun."""

import signal
from contextlib import contextmanager

import pytest
import torch.distributed as dist

from allometry.config.task import TextConfig
from allometry.data import corpus as corpora
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm.distributed.crew import Crew
from allometry.lm.distributed.world import World
from allometry.runs.engines.local import LocalEngine
from allometry.runs.job import Job
from allometry.runs.study import Study
from helpers.builders import drawn_words


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return drawn_words(tmp_path_factory.mktemp("text") / "words.txt", 6000)


def local():
    return LocalEngine(workers=2)


def slurm():
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'allometry[slurm]'")
    from allometry.runs.engines.slurm import SlurmEngine

    return SlurmEngine(workers=2, cluster="local")


def on_ray():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'allometry[ray]'")
    from allometry.runs.engines.ray_cluster import RayEngine

    return RayEngine()


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, in processes of this machine."""
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'allometry[ray]'")
    import ray

    nodes = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@contextmanager
def crew():
    """All processes that torchrun started: this one alone."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with Crew(World(dist.HashStore(), 0, 1, 0, 1, 60.0), "auto") as engine:
            yield engine
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


LADDER_ENGINES = {"local": local, "slurm": slurm, "ray": on_ray}
ENGINES = LADDER_ENGINES | {"torchrun": crew}


def entered(request):
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return ENGINES[request.param]()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    with entered(request) as engine:
        yield engine


@pytest.fixture(scope="module", params=LADDER_ENGINES)
def ladder_engine(request):
    with entered(request) as engine:
        yield engine


def study_of(path, text):
    corpus = corpora.read_corpus(str(text))
    study = Study.create(path, {"made": True})
    corpora.save_corpus(corpus, study.corpus_path)
    return study, TextConfig(source=str(text), fingerprint=corpus.fingerprint)


def jobs_of(data, tokens=20_000, widths=(16, 24, 32)):
    return [
        Job((Recipe().run(shape(width, 32), data, tokens, 0),), "ladder", seconds)
        for seconds, width in enumerate(widths)
    ]


def finishes(study, run):
    return [event for event in study.attempts(run) if event["event"] in ("finished", "diverged")]


def test_a_node_that_is_killed_at_work_costs_nothing_but_time(cluster, text, tmp_path):
    """The study ends complete, each run trained to its end once, its losses those of a calm machine.

    First in this file, while no other engine holds the cluster's cores.
    """
    study, data = study_of(tmp_path / "killed", text)
    calm, _ = study_of(tmp_path / "calm", text)
    jobs = jobs_of(data, tokens=250_000, widths=(16, 24, 32, 40))
    doomed, busy, heard = cluster.add_node(num_cpus=1), set(), []

    def on_event(event):
        heard.append(event)
        before = len(busy)
        if event["event"] == "progress":
            busy.add(event["id"])
        if before < len(busy) == 3:  # all three are at work, one of them on the node that is to go
            cluster.remove_node(doomed)

    with on_ray() as engine:
        assert engine.workers == 3
        engine.train(study, jobs, on_event)
    with local() as engine:
        engine.train(calm, jobs)
    assert any("another goes on" in event.get("text", "") for event in heard)
    assert [record.loss for record in study.records()] == [record.loss for record in calm.records()]
    assert len(study.records()) == len(jobs)
    assert all(len(finishes(study, job.configs[0].id)) == 1 for job in jobs)
    recorded = [event["id"] for event in heard if event["event"] == "recorded"]
    assert len(recorded) == len(set(recorded)) == len(jobs)


def test_all_jobs_are_trained_and_told_of_once(engine, text, tmp_path):
    study, data = study_of(tmp_path / "s", text)
    jobs, heard = jobs_of(data), []
    engine.train(study, jobs, heard.append)
    runs = [job.configs[0].id for job in jobs]
    assert {record.id for record in study.records("ladder")} == set(runs)
    assert all(record.status == "finished" for record in study.records())
    assert sorted(event["id"] for event in heard if event["event"] == "recorded") == sorted(runs)
    assert all(len(finishes(study, run)) == 1 for run in runs)
    for event in heard:
        assert event["event"] in ("recorded", "progress", "note")
        assert event["id"] in runs
    again = []
    engine.train(study, jobs, again.append)  # nothing is left to do
    assert all(len(finishes(study, run)) == 1 for run in runs)


def test_a_mistake_of_a_job_reaches_the_user(engine, text, tmp_path):
    study, data = study_of(tmp_path / "s", text)
    other = data.model_copy(update={"fingerprint": "other"})
    with pytest.raises(UserError, match="planned for other text"):
        engine.train(study, jobs_of(other, widths=(16,)))
    assert study.records() == []


def test_measured_steps_take_time(ladder_engine, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = TextConfig(source="", fingerprint="")
    narrow, wide = (Recipe(batch_exponent=0.0).run(shape(width, 32), data, 1_000, 0) for width in (16, 256))
    fast, slow = ladder_engine.measure([narrow, wide])
    assert 0 < fast < slow
    assert not list(tmp_path.iterdir())


def test_engines_that_cannot_be_had_say_so_in_a_line(monkeypatch):
    from allometry.runs.engines.ray_cluster import RayEngine
    from allometry.runs.engines.slurm import SlurmEngine

    for name, engine, words in (("ray", RayEngine(), "allometry\\[ray\\]"), ("submitit", SlurmEngine(), "[slurm]")):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(UserError, match=words), engine:
            pass
