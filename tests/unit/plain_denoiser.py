"""A family's denoiser from METHOD's words alone, one pair at a time: its own noise equations and its own hooks."""

import torch

from tests.tiny_families import ALPHAS_CUMPROD, RESOLUTION_PX, SHIFT


class PlainDenoiser:
    """What ``plain_loss`` asks: each image's target, and one pair's prediction with one bank of some tokens.

    Nothing of softalign computes here; of a ``SoftTokens`` only its two tensors are read.
    """

    def __init__(self, family, module, latents, times, noise, text):
        self.module, self.text = module, text
        self.is_joint = bool(family.layers)
        scaled = (-1, 1, 1, 1)
        if self.is_joint:
            sigmas = SHIFT * times / (1 + (SHIFT - 1) * times)
            self.timesteps, weight = 1000 * sigmas, sigmas.view(scaled)
            self.noisy = (1 - weight) * latents + weight * noise
            self.target = noise - latents
            return
        self.timesteps = (1000 * times).long()
        kept = ALPHAS_CUMPROD.double()[self.timesteps].view(scaled)
        signal, sigma = kept.sqrt(), (1 - kept).sqrt()
        self.noisy = signal * latents + sigma * noise
        is_epsilon = family.process.prediction_type == "epsilon"
        self.target = noise if is_epsilon else signal * noise - sigma * latents

    def one(self, image, prompt, bank, tokens):
        row = min(int(float(self.timesteps[image]) // 10), 99)
        offsets = tokens.timestep_offsets[row]
        call = self._joint if self.is_joint else self._crossed
        return call(image, prompt, tokens.banks[bank], offsets)

    def _joint(self, image, prompt, bank_NSD, offsets):
        layers, num_tokens, width = bank_NSD.shape
        tokens_NSD = bank_NSD + offsets.view(layers, 1, width)
        hooks = []
        for layer in range(layers):
            block = self.module.transformer_blocks[layer]

            def append(_module, args, kwargs, own=tokens_NSD[layer][None]):
                return args, {**kwargs, "encoder_hidden_states": torch.cat([kwargs["encoder_hidden_states"], own], 1)}

            hooks.append(block.register_forward_pre_hook(append, with_kwargs=True))
            hooks.append(block.register_forward_hook(lambda _m, _a, out: (out[0][:, :-num_tokens], out[1])))
        arguments = {"pooled_projections": self.text.pooled_NP[[prompt]], "timestep": self.timesteps[[image]]}
        return self._run(hooks, image, prompt, "hidden_states", arguments)

    def _crossed(self, image, prompt, bank_SD, offsets):
        tokens = (bank_SD + offsets)[None]

        def insert(_module, args, kwargs):
            text = kwargs["encoder_hidden_states"]
            return args, {**kwargs, "encoder_hidden_states": torch.cat([text[:, :1], tokens, text[:, 1:]], 1)}

        blocks = [*self.module.down_blocks, self.module.mid_block]
        sites = [block for block in blocks if getattr(block, "has_cross_attention", False)]
        hooks = [block.register_forward_pre_hook(insert, with_kwargs=True) for block in sites]
        arguments = {"timestep": self.timesteps[[image]]}
        if self.text.pooled_NP is not None:
            sizes = torch.tensor([[RESOLUTION_PX, RESOLUTION_PX, 0, 0, RESOLUTION_PX, RESOLUTION_PX]])
            pooled = self.text.pooled_NP[[prompt]]
            arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.to(pooled)}
        return self._run(hooks, image, prompt, "sample", arguments)

    def _run(self, hooks, image, prompt, name, arguments):
        states = self.text.prompt_embeds_NLD[[prompt]]
        try:
            return self.module(**{name: self.noisy[[image]]}, encoder_hidden_states=states, **arguments).sample[0]
        finally:
            for hook in hooks:
                hook.remove()
