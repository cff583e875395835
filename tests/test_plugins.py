"""What a user adds from outside: a toy of each kind in a plugin, by the calls that the package's own use."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from transformers import BertConfig

import renaissance
import small_run
from conftest import ROOT
from renaissance.cli.main import main
from renaissance.core import plugins, registry
from renaissance.core.errors import UserError
from renaissance.core.registry import Registry
from renaissance.demo.raw import write_tokenizer
from renaissance.settings.declared import SETTINGS
from small_tasks import SMALL

TOYS = {"task": "toys", "data set": "toys", "writer": "toys", "transform": "mirror", "fusion kind": "sum"}
TOYS |= {"encoder family": "toy-bert", "preset": "mirrored_toys", "setting": "toy_weight"}


@pytest.fixture(scope="module")
def lab(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory, own_tables: None) -> Path:
    """A folder with the plugin toy_lab, raw toys, and an encoder of the plugin's family."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(
        ROOT / "tests" / "plugins" / "toy_lab", home / "toy_lab", ignore=shutil.ignore_patterns("__pycache__")
    )
    for split, count in (("train", 8), ("val", 4)):
        (home / "raw" / split).mkdir(parents=True)
        for number in range(count):
            colour = ("red", "blue")[number % 2]
            Image.new("RGB", (40 + len(split), 32 + number), colour).save(
                home / "raw" / split / f"{colour}_{number}.png"
            )
    write_tokenizer(home / "encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=100, max_position_embeddings=32, **sizes).to_dict() | {"model_type": "toy-bert"}
    (home / "encoder" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return home


def test_a_toy_of_each_kind_runs(lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    given = f"plugins=['{lab / 'toy_lab'}']"
    arrow = f"data_root={lab / 'arrow'}"
    assert main(["prepare", "with", given, "dataset=toys", f"root={lab / 'raw'}", arrow, "workers=1"]) == 0
    assert main(["check_data", "with", given, arrow, "workers=1"]) == 0
    words = ["mirrored_toys", given, *SMALL, arrow, f"log_dir={lab / 'runs'}", "fusion=sum", "toy_weight=2"]
    words += ["image_encoder=facebook/deit-tiny-patch16-224", f"text_encoder={lab / 'encoder'}"]
    words += ["random_init_text_encoder=True", "num_workers=1"]
    tables = [table for table in vars(registry).values() if isinstance(table, Registry)] + [SETTINGS]
    assert {table.what: name for table in tables for name in TOYS.values() if name in table} == TOYS

    assert main(["check", "with", *words]) == 0 and "toy_weight" in capsys.readouterr().out
    run = small_run.train(capsys, *words)
    assert len(pd.read_parquet(run / "predictions" / "toys_val.parquet")) == 4
    assert {"toys/train/loss", "toy_length/train/loss"} <= set(small_run.rows(run)[0])
    best = run / "checkpoints" / "best.ckpt"
    settings = renaissance.load(best, plugins=[str(lab / "toy_lab")]).settings
    assert settings.objectives.toy_weight == 2 and settings.model.fusion.kind == "sum"
    resumed = small_run.train(
        capsys, given, f"resume_from={run / 'checkpoints' / 'last.ckpt'}", "max_steps=4", "toy_weight=3"
    )
    assert small_run.results(resumed).keys() == {"val"}

    monkeypatch.setattr(plugins, "LOADED", {})  # as in a command that does not name it
    for refused in (["predict", "with", "text=a"], ["with", "task_itm", "max_steps=1"]):
        assert main([*refused, f"load_path={best}"]) == 1
        error = capsys.readouterr().err
        assert f"was made with the plugin {lab / 'toy_lab'}; if you trust it, add plugins=" in error


def test_questions_about_settings_load_no_torch(lab: Path):
    """And presets and settings of a plugin are shown and checked as ours, wherever the plugin is named."""
    (lab / "mine.yaml").write_text('plugins: ["toy_lab"]\n', encoding="utf-8")
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from renaissance import config
config.PARTS["mine"] = {{"plugins": ["toy_lab"]}}  # as a user writes it into the file
from renaissance.cli.main import main
codes = [main(words) for words in (
    ["print_config", "with", "task_toys", "mine"],
    ["print_named_configs", "with", "mine.yaml"],
    ["print_config", "with", "mirrored_toys", "mine.yaml", "toy_weight=3"],
    ["with", "task_toys", "mine.yaml", "toy_weight=-1"],
    ["with", "task_toys", "mine.yaml", "loss_names.toyz=1"],
    ["prepare", "with", "plugins=toy_lab", "dataset=toy", "root=raw", "data_root=arrow"],
)]
print(codes, [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=lab, capture_output=True, text=True, timeout=60)
    for shown in (
        "task_toys ",
        "  mirrored_toys               task_toys mirrored",
        "# Toys\n",
        "[0, 0, 0, 1, 1, 1] []",
    ):
        assert shown in done.stdout, done
    assert re.search(r"^toy_weight = 3 +# factor of the loss of toys  \[given\]$", done.stdout, re.MULTILINE), done
    for said in ("toy_weight=-1 is not allowed: give a number of at least 0", "toy_length, toys", "(nearest: toys)"):
        assert said in done.stderr, done


BROKEN = {
    "absent.py": (None, "there is no"),
    "syntax.py": ("def", "cannot be imported (SyntaxError"),
    "fails.py": ("import renaissance\n1 / 0", "cannot be imported (ZeroDivisionError: division by zero, "),
    "twice.py": (
        "from renaissance.core.registry import TASKS\nTASKS.add('mlm', 'a:B')",
        "the task 'mlm' is there already",
    ),
    "unnamed.py": (
        "from renaissance.core.registry import PRESETS\nPRESETS.add('two words', {})",
        "the preset 'two words' needs a name without spaces",
    ),
    "exits.py": ("import sys\nsys.exit(0)", "cannot be imported (SystemExit: 0, "),
    "captions.jsonl": (
        "{}",
        "cannot be imported; give a .py file, or a folder with an __init__.py, or a module's dotted",
    ),
    "no_task.py": (
        "from renaissance.core.registry import TASKS\nTASKS.add('zzz', dict)",
        "the task 'zzz', <class 'dict'>, is no subclass of renaissance.tasks.base.Task",
    ),
    "no_data.py": (
        "from renaissance.core.registry import DATASETS\nDATASETS.add('dd', {'x': 1})",
        "the data set 'dd', {'x': 1}, is no instance of renaissance.data.dataset_specs.DatasetSpec",
    ),
    "no_preset.py": (
        "from renaissance.core.registry import PRESETS\nPRESETS.add('pp', ['x'])",
        "the preset 'pp', ['x'], is no instance of dict | str",
    ),
    "json.py": ("", "has the name of another module"),
    "silent.py": (
        "from renaissance.config import Run\nfrom renaissance.settings.declared import add_settings\n"
        "class Mine(Run):\n    mine: int = 1\nadd_settings(Mine)\n",
        "the setting 'mine' has no comment",
    ),
    "unchecked.py": (
        "from renaissance.config import Run\nfrom renaissance.settings.declared import add_settings\n"
        "class Mine(Run):\n    mine: int = 1  # a number\nadd_settings(Mine)\n",
        "the setting 'mine' needs a check of core/checks.py, such as integer(1)",
    ),
    "nowhere.py": (
        "from renaissance.core.registry import TASKS\nTASKS.add('zzz', 'my_lab.task')",
        "the task 'zzz', 'my_lab.task', is no subclass of renaissance.tasks.base.Task; give one, or \"module:attribute\".",
    ),
    "homeless.py": (
        "from renaissance.core.checks import flag\nfrom renaissance.settings.declared import add_settings\n"
        "class Mine:\n    mine: flag = True  # a flag\nadd_settings(Mine)\n",
        "derive Mine from a class of config.py",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plugin_that_cannot_be_used_is_a_sentence(name: str, tmp_path: Path, capsys, own_tables: None):
    content, sentence = BROKEN[name]
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["print_config", "with", f"plugins=['{tmp_path / name}']"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: plugins: ") and sentence in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("table", ["TASKS", "TRANSFORMS", "FUSIONS", "FAMILIES", "WRITERS", "DATASETS"])
def test_an_entry_of_another_kind_is_a_sentence(table: str):
    names = copy.copy(getattr(registry, table))
    for place in ("string:digits", "collections:OrderedDict"):
        names.add(place[:3], place)
        if table != "WRITERS" or place == "string:digits":
            with pytest.raises(
                UserError, match=rf"^the {names.what} {place[:3]} \({place}\) is no (subclass|instance) of "
            ):
                names[place[:3]]


def test_unknown_settings_of_presets_and_folders_without_code(tmp_path: Path, capsys, own_tables: None, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.PRESETS, "data", dict(registry.PRESETS.data))
    Path("mine").mkdir()
    Path("mine/words.py").write_text(
        "from renaissance.core.registry import PRESETS\nPRESETS.add('task_z', {'max_stepps': 1})\n", encoding="utf-8"
    )
    Path("mine/weights.py").write_text(
        "from renaissance.core.registry import PRESETS\nPRESETS.add('task_w', {'loss_names': ['mlm']})\n",
        encoding="utf-8",
    )
    for given, sentence in (
        ("mine", "plugins: 'mine' is a folder without code; give a .py file, or a folder with an __init__.py"),
        ("./mine", "plugins: './mine' cannot be imported; give a .py file, or a folder with an __init__.py"),
        ("['']", "plugins=[''] is not allowed"),
        ("[]", "plugins=[] is not allowed"),
        ("mine/words.py", "preset task_z: there is no setting 'max_stepps' (nearest: max_steps"),
        ("mine/weights.py", "preset task_w: loss_names=['mlm'] is not allowed: give weights by task"),
    ):
        assert main(["print_config", "with", "task_z", f"plugins={given}"]) == 1
        assert sentence in capsys.readouterr().err


def test_a_config_file_may_name_a_plugin_and_its_settings(lab: Path, capsys, own_tables: None, monkeypatch):
    monkeypatch.chdir(lab)
    Path("both.yaml").write_text('toy_weight: 3\nplugins: ["toy_lab"]\n', encoding="utf-8")
    assert main(["print_config", "with", "both.yaml"]) == 0 and "toy_weight = 3 " in capsys.readouterr().out


def test_the_code_of_all_modules_of_all_plugins_is_known_again(tmp_path: Path, own_tables: None, monkeypatch):
    (tmp_path / "toy_lab_of_two" / "inner").mkdir(parents=True)
    files = [
        tmp_path / name for name in ("toy_lab_of_two/__init__.py", "toy_lab_of_two/inner/more.py", "toy_lab_alone.py")
    ]
    monkeypatch.setattr(plugins, "LOADED", {})
    seen = {plugins.code_digest()}
    for file in files:
        file.write_text("")
    plugins.load_plugins([str(files[0].parent), str(files[2])])
    seen.add(plugins.code_digest())
    for file in files:
        assert plugins.code_digest() in seen
        file.write_text("changed = True")
        seen.add(plugins.code_digest())
    assert len(seen) == 5


def test_a_module_that_is_not_there_is_a_sentence(own_tables: None):
    with pytest.raises(
        UserError, match=r"plugins: 'no.such' cannot be imported \(ModuleNotFoundError: No module named"
    ):
        renaissance.load("a.ckpt", plugins=["no.such"])


def test_a_file_in_tasks_is_a_task(tmp_path: Path):
    """Its name in loss_names, and a preset, come from the file alone."""
    shutil.copytree(ROOT / "renaissance", tmp_path / "renaissance", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "renaissance" / "tasks" / "region_words.py").write_text("class RegionWords: ...\n", encoding="utf-8")
    program = (
        "from renaissance.cli.main import main; from renaissance.core.registry import TASKS\n"
        "main(['print_config', 'with', 'task_region_words'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "'region_words': 1, " in done.stdout and "exp_name = 'region_words'" in done.stdout, done


def test_the_documented_objective_trains(hub_cache: Path, tmp_path: Path, capsys, own_tables: None):
    guide = (ROOT / "CONFIGURING_MODELS.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n((?:(?!```).)*?class Length.*?)```", guide, re.DOTALL)[1]
    (tmp_path / "length.py").write_text(code, "utf-8")
    data = small_run.write_coco_vg(tmp_path / "arrow")
    words = ["task_length", f"plugins={tmp_path / 'length.py'}", f"data_root={data}", f"log_dir={tmp_path}"]
    run = small_run.train(capsys, *words, *small_run.SMALL, "max_steps=2")
    assert "length/train/loss" in small_run.rows(run)[0]
    assert small_run.results(run)["test"]["length"].keys() >= {"loss", "accuracy"}


def test_commands_that_use_an_entry_of_another_kind_are_refused(hub_cache: Path, tmp_path: Path, capsys, own_tables):
    entries = {"TASKS": "odd_task", "TRANSFORMS": "odd_transform", "FUSIONS": "odd_fusion"}
    lines = [f"{table}.add({name!r}, 'collections:Counter')" for table, name in entries.items()]
    (tmp_path / "odd.py").write_text("from renaissance.core.registry import *\n" + "\n".join(lines), encoding="utf-8")
    data = small_run.write_coco_vg(tmp_path / "arrow")
    words = [f"plugins={tmp_path / 'odd.py'}", f"data_root={data}", f"log_dir={tmp_path}", *small_run.SMALL]
    for given in ("task_odd_task", "train_transform_keys=['odd_transform']", "fusion=odd_fusion"):
        assert main(["with", "task_itm", *words, given, "max_steps=1"]) == 1
        assert re.fullmatch(
            r"error: the .* odd_\w+ \(collections:Counter\) is no subclass of .*\n", capsys.readouterr().err
        )
