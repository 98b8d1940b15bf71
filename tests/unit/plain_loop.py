"""The losses as a plain double loop, written from METHOD.md's equations alone, one pair at a time."""

import math
import statistics

import torch


def plain_loss(denoiser, live, ema, candidates, config):
    """The method's section 2, one scalar pair at a time."""
    n = len(candidates)
    dual = config.name == "agsm" and config.banks == "dual"

    def predict(i, j, tokens):
        return denoiser.one(i, j, 1 if dual and i != j else 0, tokens)

    def mse(a, b):
        return ((a - b) ** 2).sum() / a.numel()

    if config.name == "score_matching":
        return sum(mse(predict(i, i, live), denoiser.target[i]) for i in range(n)) / n
    if config.name == "softrepa":
        total = 0.0
        for i in range(n):
            errors = {j: mse(predict(i, j, live), denoiser.target[i]) for j in candidates[i]}
            logits = {j: config.logit_scale * torch.exp(-errors[j] / config.temperature) for j in candidates[i]}
            partition = sum(torch.exp(logit) for logit in logits.values())
            total = total + (torch.log(partition) - logits[i]) / n + config.denoising_weight * errors[i] / n
        return total
    positive, negative, num_negative = 0.0, 0.0, 0
    factor = denoiser.target[0].numel() if config.reward_reduction == "sum" else 1
    with torch.no_grad():
        grid = [{j: predict(i, j, ema) for j in candidates[i]} for i in range(n)]
        rewards = [{j: -factor * float(mse(grid[i][j], denoiser.target[i])) for j in candidates[i]} for i in range(n)]
    tau = config.temperature
    if config.temperature == "calibrated":
        tau = plain_spread(rewards) or 1.0
    for i in range(n):
        with torch.no_grad():
            averaged, reward = grid[i], rewards[i]
            partition = sum(math.exp(reward[j] / tau) for j in candidates[i])
            weight = {j: math.exp(reward[j] / tau) / partition for j in candidates[i]}
            direction = {}
            for j in candidates[i]:
                if config.weights == "plackett_luce":
                    direction[j] = averaged[j] - sum(weight[k] * averaged[k] for k in candidates[i])
                else:
                    rivals = [k for k in candidates[i] if k != j]
                    pull = torch.zeros_like(averaged[j])
                    for k in rivals:
                        lose = 1 / (1 + math.exp((reward[j] - reward[k]) / tau))
                        pull += lose * (averaged[j] - averaged[k]) / len(rivals)
                    direction[j] = pull
        for j in candidates[i]:
            if j == i:
                shifted = denoiser.target[i] + config.gamma_positive * direction[i]
                positive = positive + mse(predict(i, i, live), shifted) / n
            elif config.gamma_negative != 0:
                shifted = denoiser.target[i] - config.gamma_negative * direction[j]
                negative = negative + mse(predict(i, j, live), shifted)
                num_negative += 1
    return positive + (negative / num_negative if num_negative else 0.0)


def plain_spread(rewards):
    spreads = [statistics.pstdev(row.values()) for row in rewards if len(row) > 1]
    return sum(spreads) / len(spreads) if spreads else 0.0
