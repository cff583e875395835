"""Rows to numbers, intervals and comparisons.

Honest numbers: the rows of a whole split, intervals by bootstrap, and what is printed and kept of them.

    rows of each process -> frames.gather_rows -> frame -> the task's score -> sheet.lines, predictions/<task>_<split>.parquet

A *frame* has one row an example, sorted by `position` (in the data set): `id`, `prediction`, `target` (None = hidden),
`score` (NaN = hidden), and columns of the task's. Rows that share a value of the column `group` (the pairs that NLVR2
shows with one sentence) are no independent examples: the bootstrap then draws groups.
"""
