"""The one error that is meant for the user."""


class HklflowError(Exception):
    """A problem that the user can mend, told in one sentence.

    The message says what is wrong with the value, where, and what to do. The
    command line prints it on one line and exits with code 2; every other
    exception is a defect of hklflow and keeps its traceback.
    """
