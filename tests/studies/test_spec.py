"""Study files: which runs they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from renaissance.core.errors import UserError
from renaissance.settings.declared import SETTINGS
from renaissance.settings.words import configured
from renaissance.studies.plan import plan
from renaissance.studies.spec import read_study

STAGES = """
base: {presets: task_mlm_itm, max_steps: 5, batch_size: 8}
grid: {freeze_text_encoder: [false, true]}
zip: {cross_layer_hidden_size: [16, 32], num_cross_layer_heads: [2, 4]}
seeds: [0, 1]
stages:
  vqa: {presets: [task_finetune_vqa], load_path: "stage:pretrain.best", blind_run: "stage:blind",
        grid: {learning_rate: [1e-4, 2e-4]}}
  blind: {presets: [task_finetune_vqa], load_path: "stage:pretrain.last", blind: true, seeds: [0]}
  pretrain: {max_steps: 7, list: [{learning_rate: 5e-4}]}
metrics: [vqa:vqa/val/accuracy]
baseline: {freeze_text_encoder: false, learning_rate: 1e-4}
"""


def study(tmp_path: Path, text: str, name: str = "mine.yaml"):
    (tmp_path / name).write_text(text)
    return read_study(str(tmp_path / name))


def test_runs_are_variants_times_seeds_and_take_results_of_the_same_variant(tmp_path):
    runs = plan(study(tmp_path, STAGES), "result/mine/runs", {"data_root": "data"})
    names = [run.name for run in runs]
    by_stage = {stage: [run for run in runs if run.stage == stage] for stage in ("pretrain", "blind", "vqa")}
    assert {stage: len(each) for stage, each in by_stage.items()} == {"pretrain": 8, "blind": 4, "vqa": 16}
    assert len({*names}) == len(names) == 28
    run = by_stage["vqa"][-1]
    assert run.variant == {
        "freeze_text_encoder": True, "cross_layer_hidden_size": 32, "num_cross_layer_heads": 4,
        "pretrain.learning_rate": 5e-4, "learning_rate": 2e-4,
    }  # fmt: skip
    folders = {name: Path("runs") / name / "version_0" for name in names}
    words = run.words(folders)
    assert words[:2] == ["task_mlm_itm", "task_finetune_vqa"]
    pretrain, blind = (
        next(each for each in by_stage[stage] if each.seed == seed and each.variant.items() >= wanted.items())
        for stage, seed, wanted in (
            ("pretrain", 1, {key: value for key, value in run.variant.items() if "learning_rate" not in key}),
            ("blind", 0, {key: value for key, value in run.variant.items() if key != "learning_rate"}),
        )
    )
    assert f"load_path=runs/{pretrain.name}/version_0/checkpoints/best.ckpt" in words
    assert f"blind_run=runs/{blind.name}/version_0" in words  # the one seed that it has
    assert "learning_rate=0.0005" in pretrain.words({}) and not [word for word in words if word.startswith("pretrain.")]
    assert {"max_steps=5", "seed=1", "resume_from=auto", "data_root=data", "learning_rate=0.0002"} <= {*words}
    assert "max_steps=7" in by_stage["pretrain"][0].words({})  # of the stage, before that of all
    assert all(names.index(name) < names.index(run.name) for run in runs for name, _ in run.needs.values())


def test_presets_vary_like_settings(tmp_path):
    text = "base: {presets: task_mlm_itm}\nstages: {a: {presets: env_x, list: [{presets: demo_two_tower}, "
    text += "{presets: [demo_one_tower]}]}, "
    made = study(tmp_path, text + "b: {load_path: 'stage:a.best'}}")
    two, one, *after = plan(made, "x", {})
    assert two.words({})[:3] == ["task_mlm_itm", "env_x", "demo_two_tower"] and "demo_two_tower" in two.name
    assert one.words({})[:3] == ["task_mlm_itm", "env_x", "demo_one_tower"] and "demo_one_tower" in one.name
    assert [run.needs["load_path"][0] for run in after] == [two.name, one.name]
    assert [run.presets for run in after] == [("task_mlm_itm",)] * 2 and two.variant == {"presets": "demo_two_tower"}
    assert not any(word.startswith("presets=") for run in (two, one) for word in run.words({}))


def test_names_stay_when_a_study_grows_and_fit_into_a_folder(tmp_path):
    few = plan(study(tmp_path, "grid: {learning_rate: [1e-4]}"), "x", {})
    more = plan(study(tmp_path, "grid: {learning_rate: [3e-4, 1e-4]}\nseeds: [1, 0]"), "x", {})
    assert {run.name for run in few} <= {run.name for run in more}
    long = plan(study(tmp_path, f"grid: {{image_encoder: [a/{'x' * 90}, a/{'x' * 91}, a b, a-b]}}"), "x", {})
    assert len({run.name for run in long}) == 4 and max(len(run.name) for run in long) <= 100
    assert not any("/" in run.name for run in long)


def test_a_result_is_taken_of_the_very_variant(tmp_path):
    text = "stages: {a: {list: [{}, {learning_rate: 1e-3}]}, b: {load_path: 'stage:a.best', grid: {learning_rate: [5e-4]}}}"
    runs = plan(study(tmp_path, text), "x", {})
    taken = {run.variant.get("a.learning_rate"): run.needs["load_path"][0] for run in runs if run.stage == "b"}
    assert taken == {None: "a_seed=0", 1e-3: "a_learning_rate=0.001_seed=0"}
    text = "grid: {val_check_interval: [1, 1.0]}\nstages: {a: , b: {load_path: 'stage:a.best'}}"
    runs = plan(study(tmp_path, text), "x", {})
    assert len({run.needs["load_path"][0] for run in runs if run.stage == "b"}) == 2


def test_the_order_of_keys_names_no_other_runs(tmp_path):
    names = [
        {run.name for run in plan(study(tmp_path, f"grid: {{{text}}}"), "x", {})}
        for text in ("max_steps: [1], batch_size: [2, 4]", "batch_size: [4, 2], max_steps: [1]")
    ]
    assert names[0] == names[1] == {"mine_batch_size=2_max_steps=1_seed=0", "mine_batch_size=4_max_steps=1_seed=0"}


def test_what_the_command_gives_to_all_is_no_variant(tmp_path):
    with pytest.raises(UserError, match="varies data_root, which the command gives to all"):
        plan(study(tmp_path, "grid: {data_root: [a, b]}"), "x", {"data_root": "c"})


REFUSED = {
    "base: {seeds: [1]}": "base has seeds, which stand beside it",
    "base: {presets: ['learning_rate=3']}": "presets has ['learning_rate=3']; write settings beside it",
    "grid: {a: [1]}\nstages: {b: {grid: {a: [2]}}}": "stage b varies a, and so does the whole study",
    "metrics: [nothing/val/accuracy]": "there is no task nothing",
    "grid: {presets: ['learning_rate=3']}": "presets has ['learning_rate=3']; write settings beside it",
    "grids: {}": "there is no 'grids' (nearest: grid)",
    "grid: {a: []}": "a has no values, so there are no runs",
    "list: []": "list is empty, so there are no runs",
    "grid: 3": "grid",
    "zip: {a: [1, 2], b: [1]}": "lists of different lengths",
    "list: [{a: 1}, {a: 1}]": "the variant {'a': 1} is there twice",
    "seeds: [1, 2, 1]": "seeds: [1] stands there twice",
    "seeds: [x]": "seeds",
    'stages: {a: {load_path: "stage:a.best"}}': "stage a takes a result of itself",
    "seeds: []": "seeds is empty, so there are no runs",
    "stages: {a: {seeds: []}}": "stages[a]: seeds is empty",
    "stages: {}": "stages is empty, so there are no runs",
    "table: {row: [a]}": "table: there is no 'row' (nearest: rows)",
    "grid: {seedling: [1]}\ntable: {rows: [seedlings]}": "table: there is no 'seedlings' (nearest: seedling)",
    "grid: {a: [1]}\ntable: {rows: [a, metric], columns: [a]}": "table: ['a'] stands there twice",
    'stages: {a: {load_path: "stage:b.best"}, b: {load_path: "stage:a.last"}}': "in a circle",
    'stages: {a: {load_path: "stage:c.best"}, b: }': "there is no stage c",
    'stages: {a: {load_path: "stage:b.worst"}, b: }': "names no result of a stage",
    'stages: {a: {load_path: "stage:b.best", seeds: [0, 1]}, b: {seeds: [2, 3]}}': "seeds that stage b has not",
    "stages: {a/b: }": "a stage is named 'a/b'",
    "metrics: [accuracy]": "write <task>/<split>/<metric>",
    "metrics: ['b:vqa/val/accuracy']": "there is no stage b",
    "grid: {learning_rate: [1, 2]}\nbaseline: {learning_rate: 3}": "no variant has {'learning_rate': 3}",
    "budget: {runs: 3}": "budget: there is no 'runs'",
    "base: {seed: 3}": "gives ['seed'], which the study decides",
    "grid: {exp_name: [a, b]}": "gives ['exp_name'], which the study decides",
    "seeds: [0, 1, 2]\nbudget: {max_runs: 2}": "has 3 runs, and its budget allows max_runs=2",
}


@pytest.mark.parametrize("text", [*REFUSED])
def test_a_study_file_that_means_no_runs_is_refused(text, tmp_path):
    with pytest.raises(UserError) as caught:
        plan(study(tmp_path, text), "x", {})
    assert REFUSED[text] in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    for name, sentence in (("none.yaml", "cannot be read .No such file"), ("study.txt", "ends in .json, .yaml, .yml")):
        with pytest.raises(UserError, match=sentence):
            read_study(str(tmp_path / name))


def test_runs_of_a_study_have_tags(tmp_path):
    """Those of all, or those of a variant; as words of a command they are the same list."""
    text = "base: {presets: task_mlm, max_steps: 1, tags: [mine]}\n"
    text += "list: [{blind: false}, {blind: true, tags: [mine, high]}]"
    runs = plan(study(tmp_path, text), "runs", {})
    tags = [configured(SETTINGS, run.words({}))[0]["tags"] for run in runs]
    assert [SETTINGS["tags"].convert(each) for each in tags] == [["mine"], ["mine", "high"]]
