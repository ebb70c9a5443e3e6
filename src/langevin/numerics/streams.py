"""Every stream that noise is folded into, by name: ``noise.fold_in(Stream.TIMES)``."""

from __future__ import annotations

from enum import Enum, unique


@unique
class Stream(int, Enum):
    """A stream, as the tag that ``Noise.fold_in`` takes; ``Stream.PROJECTION + i`` is the i-th of several.

    A tag tells the parts of one noise apart. Streams of the owner ``shared`` are folded from noise that is handed to
    several objects, so their tags lie above all others and 2³² or more from each other. Other owners fold noise that
    they were given for themselves.
    """

    owner: str

    def __new__(cls, owner: str, tag: int) -> Stream:
        made = int.__new__(cls, tag)
        made._value_ = (owner, tag)
        made.owner = owner
        return made

    INNER = "shared", 2**32
    """A compound law's belief."""
    TIMES = "shared", 2**33
    """The times of training."""
    ORDER = "shared", 2**34
    """The order of the data."""
    CONDITIONS = "shared", 2**35
    """Which samples lack the i-th condition in training."""
    NETWORK = "shared", 2**36
    """The network's own randomness, as dropout."""
    VALIDATION = "shared", 2**37
    """The noise of validation: the same draws every time."""
    TERM = "shared", 2**38
    """A term of the variational bound that is drawn, not integrated."""
    TRUTH = "shared", 2**39
    """States at which a start of the reverse process is judged."""
    PROJECTION = "shared", 2**40
    """The i-th direction of sliced score matching."""
    END = "shared", 2**41
    """The noise at the end of a learned schedule."""
    PLAYER = "shared", 2**44
    """What one of several players draws for itself."""
    CODES = "shared", 2**46
    """The codes of a codec."""
    STAGE = "shared", 2**45
    """The i-th stage of a cascade."""
    UNNOISED = "shared", 2**47
    """Which samples of training are shown without noise."""
    DEGRADED = "shared", 2**43
    """What is random in the i-th step of a degradation."""
    DEGRADED_STRENGTH = "shared", 2**43 + 2**41
    """Each example's number of a step that is given a range."""
    DEGRADED_WAY = "shared", 2**43 + 2**42
    """Which of several degradations an example gets."""

    POSE = "brain", 0
    GLYPH = "glyphs", 0
    AVATAR = "avatars", 0
    PHANTOM = "ellipses", 0
    PHANTOM_COUNT = "ellipses", 1
    MASK = "shared", 2**50
    """Which pixels, or lines of a Fourier transform, an operator measures."""
    STROKES = "shared", 2**51
    """The i-th stroke of a brush."""
    MATRIX = "shared", 2**52
    """The entries of a random operator."""
    MEASURED = "shared", 2**53
    """The noise of a measurement."""
    TOLERANCE = "shared", 2**54
    """The noises by which the error of a path is estimated."""

    REPLACED = "shared", 2**58
    """Which samples of a batch the model's own states take the place of."""
    ROLLOUT = "shared", 2**59
    """The i-th reverse step of the model while it learns."""
    REFERENCE = "shared", 2**60
    """The noise of a picture that noisy states are compared with."""

    FACTOR = "covariance", 1
    CHOICE = "law", 1
    BETA_A = "beta", 1
    BETA_B = "beta", 2
    GAMMA_BOOST = "gamma", 0
    GAMMA_TRY = "gamma", 1
    PATH = "path", 0

    COMPONENT = "world", 1
    NOISED = "world", 2
    CLEAN = "world", 3
    MEANS = "mixture", 1
    FACTORS = "mixture", 2
    WEIGHTS = "mixture", 3

    PREDICTOR = "sampler", 11
    CORRECTOR = "sampler", 12
    REPEATED = "sampler", 21
    CHURNED = "sampler", 31
    KNOWN = "sampler", 41
    LANGEVIN = "langevin", 0
    VELOCITY = "momentum", 0
    KICK = "momentum", 1
    FIRST_HALF = "sscs", 1
    SECOND_HALF = "sscs", 2
    LEVEL = "levels", 1
    DENOISED = "mcmc", 2
    LAST = "mcmc", 3
    WALK = "mcmc", 4
    UP = "boomerang", 0
    DOWN = "boomerang", 1

    RESAMPLED = "particles", 1
    CHOSEN = "particles", 2
    PREDICTED = "particles", 2**16
    """The i-th draw of the clean data from a belief, of a reward that is looked ahead at."""
    RAISED = "edit", 0
    CONTRAST = "edit", 10_000
    PASS = "edit", 20_000
    UNMEASURED = "inverse", 1
    REMEASURED = "inverse", 2
    COUPLED = "inverse", 3
    RENOISED = "inverse", 4
    WALKED = "inverse", 2**16
    SWEEP = "inverse", 2**20
    SUBSTEP = "inverse", 2**24
    BEGIN = "attack", 0
    DEFENCE = "attack", 1

    DEQUANTISED = "exact", 0
    PROBES = "exact", 1
    ORTHOGONAL = "probes", 1
    QUANTILE = "continuous", 1
    PATH_TERM = "continuous", 2
    DATA_TERM = "continuous", 3

    TUNING = "tuning", 701

    SHOWN_DATA = "gan", 1
    SHOWN_SAMPLES = "gan", 2

    CUTS = "cutouts", 0
    CHANGES = "cutouts", 1
    SPECKLES = "cutouts", 2
    CUT_BATCH = "cutouts", 2**16
    """The i-th batch of cut-outs of a step."""

    ROTATION = "codec", 0
    BRANCHES = "codec", 1
    RATES = "codec", 98
    DECODED = "codec", 99
