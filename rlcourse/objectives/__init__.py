"""Equations: tensors in, tensors out. No modules, no optimisers, no hidden ``.mean()``: the caller reduces.

Every function names its source, and its docstring ends with one number worked by hand that the tests hold it to.
"""
