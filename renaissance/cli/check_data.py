"""`python run.py check_data with data_root=...`: arrow files, checked to their last pixel."""

from typing import Any

from renaissance.core.checks import MOST_TOKENS, dataset_list, integer, model, path, plugin_names, text
from renaissance.data.check import check_data


# fmt: off
class CheckData:
    """What is checked, and how"""

    plugins: plugin_names = None  # modules and files that add data sets, such as ["my_lab.gqa", "path/to/file.py"]
    data_root: path("a folder of arrow files") = None  # folder of the arrow files
    datasets: dataset_list = None  # data sets to check, such as ["coco","vg","mine"], or what the library datasets has saved; None = every file in data_root
    image_column: text("the name of a column") = None  # what own captions call the column of images; None = image
    caption_column: text("the name of a column") = None  # the same for captions; None = caption
    max_text_len: integer(3, MOST_TOKENS) = 50  # tokens that a run cuts texts to; the lengths of the texts are compared with it
    tokenizer: model = None  # Hub id or folder: lengths in its word pieces; None = an estimate from words, at once
    workers: integer(1) = None  # processes that decode images; None = one a core
    sheet_folder: path("a folder") = None  # folder that takes the contact sheets, check_data_<data set>.png; None = data_root
# fmt: on


def main(**values: Any) -> None:
    """Checks the files as the settings say; `tokenizer` is loaded here, as `data.check` knows no models."""
    check_data(**values, load_tokenizer=_load_tokenizer)


def _load_tokenizer(name: str) -> Any:
    from renaissance.models.backbones.tokenizer import load_tokenizer  # imports transformers, which takes seconds

    return load_tokenizer(name)[0]
