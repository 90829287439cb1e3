"""Networks trained on a set: the protocols, the scores, experts and pools."""
