"""`python run.py compare with runs='result/a/*,result/b/version_3'`: finished runs side by side."""

from renaissance.core.checks import path, paths, tag_list
from renaissance.evaluation.compare import compare


# fmt: off
class Compare:
    """Which runs, and where the table goes"""

    runs: paths("run folders or patterns of them") = None  # run folders, folders of studies (result/<study>) for all of their runs, or patterns of them, a list or with commas between; the first is compared with
    tags: tag_list = None  # only the runs that have all of these tags, such as [baseline,paper]; None = whatever they have
    output: path("a folder").or_none = "compare"  # folder that the table is written to, as compare.md and compare.csv; None = only printed
# fmt: on

main = compare
