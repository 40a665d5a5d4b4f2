"""Which runs to train so that a prediction becomes sure: ladder designs and next runs."""
