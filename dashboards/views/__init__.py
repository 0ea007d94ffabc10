"""What the pages show, as tables: pure functions, a file for each kind of thing that is shown."""

from dashboards.views import latents, lineage, plane, runs, scores, steering, training

__all__ = ["latents", "lineage", "plane", "runs", "scores", "steering", "training"]
