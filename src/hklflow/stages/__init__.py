"""One module per rule, with the rule's name: load, compute, save."""
