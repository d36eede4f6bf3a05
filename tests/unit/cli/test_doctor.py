import json

import pytest

from tfdist.cli import doctor
from tfdist.cli.main import main

HEALTHY = {"tfdist": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1"}


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (HEALTHY, []),
        ({"keras": "3.15.1"}, ["No TensorFlow is installed", "tfdist[tensorflow]"]),
        ({**HEALTHY, "tensorflow-cpu": "2.21.0"}, ["tensorflow and tensorflow-cpu are installed together"]),
        ({**HEALTHY, "keras": "3.14.0"}, ["keras 3.14.0 is installed", "pip install 'keras"]),
    ],
)
def test_versions(installed, words):
    problems = doctor.version_problems(installed)
    assert bool(problems) == bool(words)
    assert all(word in problems[0] for word in words)


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"KERAS_BACKEND": "jax"}, "KERAS_BACKEND is 'jax'"),
        ({"TF_USE_LEGACY_KERAS": "1"}, "TF_USE_LEGACY_KERAS"),
    ],
)
def test_environment(env, word):
    (problem,) = doctor.environment_problems(env)
    assert problem.startswith(word)
    assert "Unset it" in problem


def test_healthy_environment():
    assert doctor.environment_problems({"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}) == []


@pytest.mark.parametrize(
    ("installed", "env", "devices", "word"),
    [
        (HEALTHY, {"TPU_NAME": "local"}, [], "looks like a TPU host (TPU_NAME)"),
        (HEALTHY, {}, ["/dev/accel0"], "looks like a TPU host (/dev/accel0)"),
        ({"tensorflow-tpu": "2.20.0"}, {}, [], "without libtpu"),
    ],
)
def test_tpu(installed, env, devices, word):
    (problem,) = doctor.tpu_problems(installed, env, devices)
    assert word in problem


def test_no_tpu_is_no_problem():
    assert doctor.tpu_problems(HEALTHY, {}, []) == []
    assert (
        doctor.tpu_problems({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.20"}, {"TPU_NAME": "local"}, []) == []
    )


@pytest.mark.parametrize(
    ("is_cuda_build", "num_gpus", "has_driver", "word"),
    [
        (True, 0, False, None),
        (True, 1, True, None),
        (False, 0, True, "without CUDA"),
        (True, 0, True, "libcudnn"),
    ],
)
def test_gpu(is_cuda_build, num_gpus, has_driver, word):
    problems = doctor.gpu_problems(is_cuda_build, num_gpus, has_driver, ["cudnn"])
    assert [word in problem for problem in problems] == ([True] if word else [])


def test_library_that_is_nowhere():
    assert doctor.find_library("tfdist_nowhere") is None


def test_threads():
    rows = dict(doctor.thread_rows({"OMP_NUM_THREADS": "3"}))
    assert rows["OMP_NUM_THREADS"] == "3"
    assert rows["TF_NUM_INTRAOP_THREADS"] == "not set: all cores"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process; the host's own wheels and TPU files do not count."""

    def _run(**env):
        monkeypatch.setattr(doctor, "installed_versions", lambda: HEALTHY)
        monkeypatch.setattr(doctor, "_TPU_DEVICES", ())
        monkeypatch.setenv("COLUMNS", "200")
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        code = main(["doctor"])
        return code, capsys.readouterr().out

    return _run


def test_healthy_report(run):
    from tfdist._internals.patches import list_patches

    code, out = run()
    assert code == 0
    assert "No problem found." in out
    assert "none: one process" in out
    for patch in list_patches():
        assert patch.target in out
        assert patch.upstream in out


def test_cluster_and_problems_are_shown(run):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    code, out = run(TF_CONFIG=json.dumps(cluster), KERAS_BACKEND="jax")
    assert code == 1
    assert "2 training processes, from TF_CONFIG" in out
    assert "worker 0, chief" in out
    assert "problem: KERAS_BACKEND is 'jax'" in out
    assert "Problems found: 1" in out


def test_malformed_cluster_is_a_problem(run):
    code, out = run(TF_CONFIG="{")
    assert code == 1
    assert "problem: TF_CONFIG is not valid JSON" in out
