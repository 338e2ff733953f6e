"""The version of what is computed: with equal data, weights and settings, code of another version gives something else."""

# Goes up by one with each change of what is computed from equal settings: an accuracy, a selection, a baseline, a state, kept features.
# What was made by another version is then made again, never taken for the same.
CODE = 1


def code_version() -> dict[str, int]:
    """The version as an entry of settings; none while it is 1, since what was made before versions were told is of the first."""
    return {} if CODE == 1 else {"code": CODE}
