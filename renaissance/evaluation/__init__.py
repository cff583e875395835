"""Rows to metrics, intervals and comparisons.

    rows of each process -> frames.gather_rows -> frame -> the task's score -> score_report, predictions/<task>_<split>.parquet

A *frame* has one row for each example, sorted by `position` (in the data set): `id`, `prediction`, `target` (None = hidden),
`score` (NaN = hidden), and columns of the task. Rows with the same `group` (such as the pairs that NLVR2 shows with one
sentence) are not independent: the bootstrap draws groups.
"""
