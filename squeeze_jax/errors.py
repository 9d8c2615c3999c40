"""The one exception whose message is for the person at the terminal."""


class UserError(Exception):
    """Reports in one line something that the user can mend: a path, a key, a data set.

    `launch.py` and `squeeze-jax` print it as `error: ...` and exit with 2. Any other exception is a
    bug and keeps its traceback.
    """
