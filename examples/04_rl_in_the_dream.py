"""Train a policy in dreams with REINFORCE: turn until the arena's yellow sun is in view.

Needs the extra `rl`. Argument: number of updates (default 20).
"""

import sys

import gymnasium
import torch

import playloom  # registers the environments

updates = int(sys.argv[1]) if len(sys.argv) > 1 else 20


def yellow(transition) -> float:
    """Return the share of pixels of the upper half that have the sun's colour."""
    red, green, blue = transition.after_HWC[:90].transpose(2, 0, 1)
    return float(((red > 235) & (green > 220) & (blue < 120)).mean())


held = ["rest", "turn_left", "turn_right"]
envs = gymnasium.make_vec("playloom/Dream-v0", num_envs=4, actions=held, reward_fn=yellow, max_steps=None)
print(f"playloom {playloom.__version__}, {envs}")
policy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(15 * 25 * 3, len(held)))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.003)
for update in range(updates):
    frames, _ = envs.reset(seed=update)
    log_probs, rewards = [], []
    for _ in range(6):
        small = torch.from_numpy(frames[:, 6::12, 6::12].copy()).float() / 255
        choice = torch.distributions.Categorical(logits=policy(small))
        actions = choice.sample()
        frames, reward, *_ = envs.step(actions.numpy())
        log_probs.append(choice.log_prob(actions))
        rewards.append(torch.from_numpy(reward).float())
    returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    loss = -(torch.stack(log_probs) * (returns - returns.mean(1, keepdim=True))).mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    print(f"update {update}: reward {torch.stack(rewards).mean():.4f}")
