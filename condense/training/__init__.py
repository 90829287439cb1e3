"""Training: networks trained on a set of images, and the accuracy they reach.

`condense.training.train` trains one network. `condense.training.evaluate` measures the accuracy of
networks that were trained on a condensed set.
"""
