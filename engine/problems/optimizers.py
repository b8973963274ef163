"""The optimizer and the learning rates that a recipe asks for."""

from engine.recipes.optimizer import OptimizerConfig, OptimizerName
from engine.recipes.training import RateSchedule, TrainingConfig
from engine.routine.optimizers import Optimizer, adam, adamw, sgd


def make_optimizer(config: OptimizerConfig) -> Optimizer:
    """Return the inner optimizer that a recipe asks for."""
    if config.name is OptimizerName.SGD:
        return sgd(config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay)
    make = adam if config.name is OptimizerName.ADAM else adamw
    return make(
        (config.beta1, config.beta2),
        eps=config.eps,
        eps_root=config.eps_root,
        weight_decay=config.weight_decay,
    )


def learning_rates(config: TrainingConfig) -> float | tuple[float, ...]:
    """Return the rate of a flat schedule, or the rates of a one-cycle schedule, one a step.

    One cycle rises linearly from half the peak to the peak at a quarter of the run, and falls
    linearly to a ten-thousandth of it.
    """
    if config.rate_schedule is RateSchedule.FLAT:
        return config.learning_rate
    last = max(config.num_steps - 1, 1)
    peak = config.learning_rate

    def rate(step: int) -> float:
        position = step / last
        if position < 0.25:
            return peak * (0.5 + 0.5 * position / 0.25)
        return peak * (1 - (1 - 1e-4) * (position - 0.25) / 0.75)

    return tuple(rate(step) for step in range(config.num_steps))
