"""What a descent is compared with: baselines, reruns, searches and damage."""
