"""Images of every kind become one stream of (image, label, index), the same after any interruption.

Read first ``sources.py`` (the ``--data`` grammar), then ``images.py`` (what a source answers)
and ``loader.py`` (which images a training step gets)."""
