"""Tests of permissions that hold for root too."""

import ctypes


def without_privilege_to_read_all() -> None:
    """Give up root's right to read and write what file modes forbid (for `preexec_fn`)."""
    libc = ctypes.CDLL(None, use_errno=True)
    drop = 24  # PR_CAPBSET_DROP
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.prctl(drop, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
