"""Every error that mnist-tune raises on purpose.

    MnistTuneError            exit code 1: the work failed
    ├── InputError            exit code 2: what the user gave is wrong
    │   ├── SpaceError        a search space file
    │   ├── ConfigError       a hyperparameter, best.yaml or search option
    │   ├── DataFileError     a data file that is missing, truncated or altered
    │   ├── RunError          a run directory, or the place for a new one
    │   └── ClusterError      a Ray cluster that can't run the search
    ├── DataUnavailableError  the data set is not here and cannot be downloaded
    ├── CheckpointError       a checkpoint that cannot be read
    ├── StorageError          an object store that can't be reached, read or written
    ├── EngineError           an epoch that could not be trained on a device that trials share
    ├── SearchError           a search that ended without a usable trial
    └── InterruptedSearch     exit code 130: stopped by the user, can be resumed

A message says where, the rule and the value received, and what to do about it.
"""


class MnistTuneError(Exception):
    """Base of all errors below; the command line prints its message without a traceback."""

    exit_code = 1


class InputError(MnistTuneError):
    """Something the user gave is wrong."""

    exit_code = 2


class SpaceError(InputError):
    """A search space is not valid; the message lists every problem, one a line."""


class ConfigError(InputError):
    """A hyperparameter, a recorded configuration or an option is not valid."""


class DataFileError(InputError):
    """A data file is missing, truncated or altered."""


class RunError(InputError):
    """A run directory is missing, damaged, taken or in use."""


class ClusterError(InputError):
    """A node of a Ray cluster can't run a trial; the message has a table of all nodes."""


class DataUnavailableError(MnistTuneError):
    """The data set is not on this machine and could not be downloaded."""


class CheckpointError(MnistTuneError):
    """A checkpoint cannot be read."""


class StorageError(MnistTuneError):
    """An object store can't be reached, read or written."""


class EngineError(MnistTuneError):
    """An epoch of a trial could not be trained on the device that it shares with others."""


class SearchError(MnistTuneError):
    """A search ended without a trial that can be used."""


class InterruptedSearch(MnistTuneError):
    """The user stopped a search; it can be resumed."""

    exit_code = 130
