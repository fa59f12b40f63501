"""Grading a folder of submissions that nobody trusts.

The expected answers stay in this process; a submission runs in another, in a sandbox, and says what it makes of the
inputs as plain data::

    grader.py    a folder in, verdicts out; parallel, resumable
    sandbox.py   which walls there are on this machine
    report.py    CSV, JSON, Markdown
"""
