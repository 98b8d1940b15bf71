"""Why an adapter acts or does not: what its tokens do inside the denoiser, beside what the frozen model knows."""
