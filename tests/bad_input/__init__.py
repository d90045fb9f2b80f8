"""Bad input of every kind, with the sentence that a user reads; docs/bad_input.md is made of it."""
