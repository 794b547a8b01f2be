"""Training of stage 1: the structure VAE and the structure flow."""
