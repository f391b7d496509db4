"""Which clean images are used, and how good the network is on them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.cli.console import say, warn
from secateur.cli.opening import DataChoice, ModelChoice
from secateur.cli.summary import described

if TYPE_CHECKING:
    from secateur.data import CleanData
    from secateur.models import LoadedModel
    from secateur.statistics import Proportion


@dataclass(frozen=True)
class Sampling:
    """Which of the clean images to use; as `secateur.data.sample_clean` takes it."""

    samples: int
    per_class: int | None
    seed: int

    def draw(self, images: DataChoice, model: "LoadedModel") -> "CleanData":
        """Draw the clean images."""
        from secateur.data import sample_clean

        return sample_clean(
            images.open(model),
            model.convention,
            samples=self.samples,
            per_class=self.per_class,
            seed=self.seed,
            num_classes=model.num_classes,
        )

    def described(self, images: DataChoice) -> dict[str, object]:
        """Return what a report says of the images."""
        inputs = {
            "source": images.source,
            "split": images.split,
            "samples": self.samples if self.per_class is None else None,
            "per_class": self.per_class,
            "seed": self.seed,
        }
        return {name: value for name, value in inputs.items() if value is not None}


def measure_clean(
    choice: ModelChoice, model: "LoadedModel", clean: "CleanData", *, tell: bool, quiet: bool
) -> "Proportion":
    """Measure the clean accuracy, the first thing that is told; stop if it is near chance."""
    from secateur.models import better_convention, check_convention
    from secateur.statistics import Proportion

    images = clean.together()
    share = check_convention(model, images)
    accuracy = Proportion(round(share * len(images)), len(images))
    if tell:
        say(f"Clean accuracy {described(accuracy)}", style="bold")
    if not quiet and choice.has_usual_values:
        better = better_convention(model, images, share)
        if better is not None:
            warn(
                f"with {better.title} the network reaches {better.accuracy:.1%}; "
                f"if it was trained that way, add {better.flags}"
            )
    return accuracy
