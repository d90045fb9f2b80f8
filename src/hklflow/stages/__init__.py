"""One module per rule, with the rule's name: load, compute, save.

Importing a stage is cheap: what is heavy is imported inside ``main``.
"""
