"""Training of stage 2: the SLAT VAE and the SLAT flow."""
