"""One module for each rule, with the name of the rule: load, compute, save.

To import a stage takes little time: large packages are imported inside ``main``.
"""
