"""Everything that secateur raises on purpose.

::

    SecateurError
    ├── InputError                 the user can mend it; the command line exits with 2
    │   ├── CheckpointError        a file that holds no usable weights
    │   │   └── UnsafeCheckpointError   a file that wants to run code
    │   ├── ArchitectureError      no such architecture, or the weights do not fit it
    │   ├── ConventionError        the network does not answer sensibly to these inputs
    │   ├── DataError              images or labels that cannot be used
    │   ├── RecipeError            a recipe that is malformed or belongs to other weights
    │   ├── TriggerError           a trigger file that is malformed or of the wrong shape
    │   ├── MethodError            unknown method, or a hyperparameter out of range
    │   └── MissingExtraError      an optional dependency is not installed
    └── InconclusiveError          the work was done and decides nothing; exits with 3

Messages name the file or value at fault and say what to do about it.
"""


class SecateurError(Exception):
    """Root of the tree; never raised itself."""


class InputError(SecateurError):
    """Something the user gave cannot be used."""


class CheckpointError(InputError):
    """A checkpoint cannot be read as a set of named tensors."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks to import code, or exceeds the limits of the reading process."""


class ArchitectureError(InputError):
    """An architecture is unknown, cannot be built, or does not fit the weights."""


class ConventionError(InputError):
    """The input convention (size, range, mean, std) does not suit the network."""


class DataError(InputError):
    """Images or labels are missing, corrupt or outside what the network knows."""


class RecipeError(InputError):
    """A recipe is malformed or does not belong to the given weights."""


class TriggerError(InputError):
    """A trigger file is malformed or does not fit the images."""


class MethodError(InputError):
    """A method is unknown or one of its hyperparameters is out of range."""


class MissingExtraError(InputError):
    """An optional dependency is needed for what was asked."""


class InconclusiveError(SecateurError):
    """The work was done and nothing can be concluded from it."""
