"""What runs beside an answer: the only part of the course's machinery that a sandboxed submission can read.

It needs the standard library and torch, and knows no expected value.
"""
