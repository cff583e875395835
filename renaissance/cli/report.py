"""`python run.py report with run=result/vqa/version_0`: what a run has learned, as one page for a browser."""

from renaissance.core.checks import path, paths, plugin_names
from renaissance.core.console import say


# fmt: off
class Report:
    """Which runs, and where the page goes"""

    run: path("a run folder") = None  # run folder; the page is written into it
    runs: paths("run folders or patterns of them") = None  # several run folders or patterns of them in place of run, on one page; the first is compared with
    output: path("a file") = None  # file of the page; None = report.html in the folder of run, or here for runs
    data_root: path("a folder of arrow files") = None  # folder of the arrow files that pictures are shown of; None = as each run has it
    plugins: plugin_names = None  # modules and files that the runs were made with, such as ["my_lab.gqa", "path/to/file.py"]
# fmt: on


def main(run: str | None, runs: object, output: str | None, data_root: str | None) -> None:
    """Writes the page, and says where it is.

    Raises:
        UserError: no run folder, or the page cannot be written.
    """
    from renaissance.reports.page import report  # here, because it imports pandas

    say(f"report: {report(run, runs, output, data_root)}")
