"""Train LAVISH in a plain PyTorch loop, here on random tensors in place of a data set."""

import torch

import lavish

torch.manual_seed(0)
# weights="pretrained" fetches those of a timm model, such as "vit_small_patch14_dinov2.lvd142m", from the hub.
encoder = lavish.build_encoder("vit_tiny_patch16_224", method="lavish", weights="random", frame_size=32, segments=2)
head = torch.nn.Linear(2 * encoder.feature_dim, 5)
optimizer = torch.optim.Adam([*encoder.trainable_parameters(), *head.parameters()], lr=1e-3)
frames, audio = torch.randn(4, 2, 3, 32, 32), torch.randn(4, 2, 32, 32)  # 4 clips of 2 segments, normalised
labels = torch.randint(0, 5, (4, 2))  # the class of each segment
for step in range(10):
    features = encoder(frames, audio)
    logits = head(torch.cat([features["visual"].pooled, features["audio"].pooled], dim=-1))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) + encoder.auxiliary_loss()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")
torch.save(encoder.trainable_state(), "adapters.pt")
