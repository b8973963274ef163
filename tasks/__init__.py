"""Prefect tasks: the stages of the engine, and what users see of their results."""

import logging

from tasks.running.sentences import say_one_sentence

# PREFECT_LOGGING_EXTRA_LOGGERS takes the engine's lines to the UI; without a level of its own it
# would have the root's, which is WARNING.
logging.getLogger("engine").setLevel(logging.INFO)

say_one_sentence()  # wherever a stage is carried out, a cluster's workers included
