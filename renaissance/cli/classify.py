"""`python run.py classify with load_path=best.ckpt dataset=cifar10 output=probes/cifar10`: classes by frozen features."""

from pathlib import Path

from renaissance.core.checks import choice, flag, integer, path, plugin_names, require_checkpoint, text
from renaissance.core.errors import require
from renaissance.core.launch import lasting_imports

from . import encode


# fmt: off
class ClassifyModel:
    """The model"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that `export` wrote
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought


class ClassifyData:
    """What is classified"""

    dataset: text("the name of a data set") = None  # images with classes, such as cifar10; snli; nlvr2
    data_root: path("a folder of arrow files") = "data/arrow"  # folder of the arrow files
    features: choice("image", "text", "fused") = None  # of the image alone, the text alone, or both through the fusion; None = image for classes of images, else fused


class ClassifyHow:
    """How"""

    classifier: choice("linear", "knn") = "linear"  # linear: logistic regression, whose weight decay validation chooses; knn: votes of the nearest training examples
    neighbours: integer(1) = 20  # of knn, by cosine
    shots: integer(1) = None  # training examples of each class, drawn at random; None = all
    draws: integer(1) = 1  # how often shots are drawn; accuracy is the mean over draws
    seed: integer(0) = 0  # of the draws


class ClassifyOutput:
    """What is written"""

    output: path("the path of a folder") = None  # folder of the features, computed once for all classifiers, and of the runs linear/version_N and knn/version_N
    batch_size: integer(1) = 32  # inputs of one pass of the model
    num_processes: integer(1) = 1  # processes that compute features, each with a GPU of its own where there are some
    num_workers: integer(0) = 2  # loader processes of each of them
# fmt: on


def main(
    load_path: str | None,
    trust_remote_code: bool,
    dataset: str | None,
    data_root: str,
    features: str | None,
    classifier: str,
    neighbours: int,
    shots: int | None,
    draws: int,
    seed: int,
    output: str | None,
    batch_size: int,
    num_processes: int,
    num_workers: int,
) -> None:
    """Encodes the splits that are not encoded yet, classifies, prints the metrics and writes a run folder.

    Raises:
        UserError: a setting is missing or contradicts another, or the data cannot be classified.
    """
    for key, value in (("load_path", load_path), ("dataset", dataset), ("output", output)):
        require(value is not None, f"{key}=None: give {key}=.")
    require(
        draws == 1 or shots, f"draws={draws} would change nothing: shots=None takes all training examples; give both."
    )
    require(
        neighbours == 20 or classifier == "knn",
        f"neighbours={neighbours} would change nothing: it is for classifier=knn.",
    )
    require_checkpoint("load_path", load_path)
    with lasting_imports():
        from renaissance.inference import classify  # here, because it imports torch
        from renaissance.reports.page import report_ended
        from renaissance.runs.report import RunFolder

    how = classify.How(classifier, neighbours, shots, draws, seed)
    data = classify.open_data(load_path, dataset, data_root, features)
    classify.refuse_few(data, how)
    RunFolder.refuse_unwritable(output, classifier)
    folder = Path(output, "features")
    for split in data.samples:
        encode.main(
            load_path=load_path, trust_remote_code=trust_remote_code, datasets=[dataset], split=split, data_root=data_root,
            image_column=None, caption_column=None, images=None, texts=None, output=str(folder / split), what=[data.side],
            store="float32", file_type="parquet", batch_size=batch_size, num_processes=num_processes,
            num_workers=num_workers,
        )  # fmt: skip
    frames, method = classify.classify(data, how, folder)
    run = RunFolder.create(output, classifier)
    own = {"load_path": load_path, "dataset": dataset, "features": data.side, **how._asdict()}
    classify.write_results(run, data, own, frames, method)
    report_ended(run.path)
