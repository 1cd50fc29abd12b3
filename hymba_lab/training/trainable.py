"""What training would refuse, said before anything is trained."""

from hymba_lab.config import Config
from hymba_lab.cost import meta_model
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.optim.schedules import schedules


def require_trainable(config: Config, vocab: int, model: LanguageModel | None = None) -> None:
    """Refuse, before anything is trained, an optimizer or a schedule that training would refuse.

    `model` on the meta device saves building it again.
    """
    try:
        optimizer = optimizers.build(config.optimizer, model or meta_model(config.model, vocab))
        peak = optimizer.param_groups[0]["lr"]
        schedules.build(config.schedule, max(1, config.n_steps), peak)
    except ConfigError as error:
        raise config.blame(error) from None
