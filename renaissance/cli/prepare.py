"""`python run.py prepare with dataset=... root=... data_root=...`: a raw download to arrow files."""

from renaissance.core.checks import choice, integer, number, path, plugin_names, text
from renaissance.data.prepare import prepare


# fmt: off
class Prepare:
    """What is prepared, from where to where, and how"""

    dataset: text("the name of a data set") = None  # one of {DATASETS}
    plugins: plugin_names = None  # modules and files that add data sets, such as ["my_lab.gqa", "path/to/file.py"]
    root: path("a folder") = None  # folder of the raw download
    data_root: path("a folder") = None  # folder that takes the arrow files
    workers: integer(1) = None  # processes that read images; None = one a core
    max_unreadable: number(0, 1) = None  # share of a file's images that may be missing or unreadable; None = 1 %, gcc and sbu any, benchmarks 0
    resize: integer(1) = None  # pixels that the short side of a larger image is reduced to; None = images stay as they are
    quality: integer(1, 100) = None  # of the JPEG files that resizing makes, 1 to 100; None = 95
    split_by: choice("unc", "google", "umd") = None  # refcoco, refcoco+, refcocog: unc, google or umd; None = unc, refcocog umd
    name: text("a name") = None  # captions, images: name of the data set; None = captions, images or cifar10
    annotations: path("a file") = None  # captions: .jsonl, .csv, .tsv, .json, .parquet or .tar file below root; None = those in root, see "Own captions"
    image_column: text("the name of a column") = None  # captions: column of images or of their paths; None = path, image, filepath ...
    caption_column: text("the name of a column") = None  # captions: column of captions, or their key in the .json of tars; None = caption, captions, title, text ...
    separator: text("a character") = None  # captions: what stands between the columns of a CSV; None = a comma, in .tsv a tab; tab for one
    val_share: number(0, 1) = None  # captions, images: share of the training images for val; None = 0, images without val 0.1
# fmt: on

main = prepare
