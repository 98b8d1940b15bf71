"""The papers' method, in torch alone: forward process, soft tokens, objective, and what a denoiser reads of a text.

Nothing here knows of files, stages or diffusers: AGSM is arXiv 2605.30038, SoftREPA arXiv 2503.08250.
"""
