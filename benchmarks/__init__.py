"""What `epigraf bench` measures: one small file an op, suites of them, results, verdicts, reports.

The folder is linked into the package, so that its modules are `epigraf.benchmarks` in a source tree
and installed alike.
"""
