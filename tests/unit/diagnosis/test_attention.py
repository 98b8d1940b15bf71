"""The shares that are read beside the running denoiser, against weights formed from the attention's own parts."""

import pytest
import torch
from torch import nn

from softalign.diagnosis.attention import AttentionWatch, watched_attentions
from softalign.diagnosis.calls import at_level
from softalign.errors import CompatibilityError
from tests.tiny_families import FAMILIES, NUM_TOKENS
from tests.unit.diagnosis.tiny_subject import IMAGES, tiny_subject


def weights_by_hand(attention, hidden, text):
    """Softmax weights (B, heads, Q, K) of an attention of diffusers, its projections and norms taken one by one."""

    def heads(states):
        return states.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    is_joint = getattr(attention, "add_k_proj", None) is not None
    query, key = heads(attention.to_q(hidden)), heads(attention.to_k(hidden if is_joint else text))
    if is_joint:
        own = attention.norm_q, attention.norm_k
        query, key = (norm(states) if norm else states for norm, states in zip(own, (query, key), strict=True))
        added = heads(attention.add_k_proj(text))
        key = torch.cat([key, attention.norm_added_k(added) if attention.norm_added_k else added], dim=2)
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_shares_are_those_of_the_softmax(name):
    subject = tiny_subject(name)
    watched = watched_attentions(subject.denoiser.module, subject.placement)
    seen = {}

    def keep(attention, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        weights = weights_by_hand(attention, hidden, kwargs["encoder_hidden_states"])
        seen[attention] = weights, kwargs["encoder_hidden_states"].shape[1]

    handles = [one.module.register_forward_pre_hook(keep, with_kwargs=True) for one in watched]
    level = at_level(subject, IMAGES, 500, seed=0, rows_per_call=2)
    watch = AttentionWatch(watched, NUM_TOKENS)
    with watch.watching():
        plain = level.predict(subject.encode_texts(["a", "b"]), subject.tokens["adapter"])
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(plain, level.predict(subject.encode_texts(["a", "b"]), subject.tokens["adapter"]))
    found = [share for shares in watch.found.values() for share in shares]
    assert len(found) == len(watched)
    for one, share in zip(watched, found, strict=True):
        weights, text_length = seen[one.module]
        text = weights[..., -text_length:].mean(dim=(1, 2))
        own = text[:, -NUM_TOKENS:] if one.is_appended else text[:, 1 : 1 + NUM_TOKENS]
        torch.testing.assert_close(share.tokens_B.double(), own.sum(-1), rtol=1e-5, atol=0)
        torch.testing.assert_close(share.first_position_B.double(), text[:, 0], rtol=1e-5, atol=0)
        torch.testing.assert_close(share.text_B.double(), text.sum(-1), rtol=1e-5, atol=0)
        assert share.even == NUM_TOKENS / weights.shape[-1]


def test_only_blocks_with_tokens_are_watched():
    subject = tiny_subject("sd15")
    blocks = {one.block for one in watched_attentions(subject.denoiser.module, subject.placement)}
    assert blocks
    assert all(block.startswith(("down_blocks", "mid_block")) for block in blocks)


class SlicedProcessor(nn.Module):
    """Forms its weights itself, so no call can be watched."""

    def forward(self, attention, hidden_states, encoder_hidden_states=None, **_kwargs):
        return attention.to_out[0](
            weights_by_hand(attention, hidden_states, encoder_hidden_states).mean() * hidden_states
        )


def test_an_attention_that_cannot_be_watched_is_refused():
    subject = tiny_subject("sd15")
    watched = watched_attentions(subject.denoiser.module, subject.placement)
    watched[-1].module.set_processor(SlicedProcessor())
    level = at_level(subject, IMAGES, 500, seed=0, rows_per_call=2)
    with pytest.raises(CompatibilityError, match="cannot be watched") as caught:
        with AttentionWatch(watched, NUM_TOKENS).watching():
            level.predict(subject.encode_texts(["a", "b"]), subject.tokens["adapter"])
    assert caught.value.found == "SlicedProcessor"
