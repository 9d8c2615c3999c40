"""The one exception type whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Something the user can mend (a path, a key, a data set); its message is one clear line.

    `launch.py` and `squeeze-jax` print it as `error: ...` and exit with 2; any other exception is a bug and keeps its traceback.
    """
